package httpapi

import (
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// Limits of what is forwarded to a worker beside the body.
const (
	maxForwarded      = 32
	maxForwardedBytes = 8 << 10
	maxIdempotencyKey = 255
	maxCallbackURL    = 2048
)

// forwardedNames go to the worker, and so does every X- header but those that
// proxies write.
var forwardedNames = []string{
	"Accept", "Accept-Language", "Content-Encoding", "Content-Language", "Tracestate", "User-Agent",
}

var proxyNames = []string{"X-Real-Ip", api.HeaderCorrelationID}

// submission reads the options of a submit from its headers.
func (s *Server) submission(r *http.Request, service, tenant string) (broker.Submission, error) {
	h := r.Header
	sub := broker.Submission{Tenant: tenant, Service: service, ContentType: h.Get("Content-Type"), Traceparent: h.Get(api.HeaderTraceparent)}
	for name, values := range h {
		if strings.HasPrefix(name, api.OptionPrefix) && !slices.Contains(api.Options, name) {
			return sub, fail("invalid-option", "There is no option %s. Nothing was accepted; the options are %s.", name, strings.Join(api.Options, ", "))
		}
		if slices.ContainsFunc(values, unfit) {
			return sub, fail("invalid-option", "Header %s has bytes that are not valid UTF-8 text. Nothing was accepted.", name)
		}
	}
	var err error
	b := s.Bounds
	for _, option := range []struct {
		name     string
		into     *time.Duration
		min, max time.Duration
	}{
		{api.HeaderTimeout, &sub.Timeout, b.MinTimeout, b.MaxTimeout},
		{api.HeaderStartTimeout, &sub.StartTimeout, b.MinTimeout, b.MaxTimeout},
		{api.HeaderRunTimeout, &sub.RunTimeout, b.MinTimeout, b.MaxTimeout},
		{api.HeaderRetention, &sub.Retention, b.MinRetention, b.MaxRetention},
	} {
		if *option.into, err = duration(h, option.name, option.min, option.max); err != nil {
			return sub, err
		}
	}
	if sub.IdempotencyKey, err = idempotencyKey(h); err != nil {
		return sub, err
	}
	if sub.Callback, err = s.callback(h); err != nil {
		return sub, err
	}
	sub.Headers, err = forwarded(h)
	return sub, err
}

// unfit tells whether a header value must not get into frames and keys. CR, LF
// and NUL never pass net/http; the rest of the control characters end here.
func unfit(v string) bool {
	return !utf8.ValidString(v) || strings.ContainsFunc(v, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// duration reads a Go duration or whole seconds; 0 where the header is absent.
func duration(h http.Header, name string, least, most time.Duration) (time.Duration, error) {
	text := h.Get(name)
	if text == "" {
		return 0, nil
	}
	d, ok := parseDuration(text)
	if !ok || d < least || d > most {
		return 0, fail("invalid-option", "%s is %q; it must be a duration from %s to %s, such as 30s or 5m, or whole seconds. Nothing was accepted.", name, text, least, most)
	}
	return d, nil
}

func parseDuration(text string) (time.Duration, bool) {
	if seconds, err := strconv.Atoi(text); err == nil {
		if seconds < 0 || seconds > 1<<31 {
			return 0, false
		}
		return time.Duration(seconds) * time.Second, true
	}
	d, err := time.ParseDuration(text)
	return d, err == nil && d >= 0
}

// idempotencyKey takes the quoted form of the IETF draft and the bare one.
func idempotencyKey(h http.Header) (string, error) {
	values := h.Values(api.HeaderIdempotencyKey)
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	if len(key) >= 2 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	visible := !strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' })
	if len(values) > 1 || key == "" || len(key) > maxIdempotencyKey || !visible {
		return "", fail("invalid-option", "Idempotency-Key must be one value of 1 to %d visible ASCII characters. Nothing was accepted.", maxIdempotencyKey)
	}
	return key, nil
}

func (s *Server) callback(h http.Header) (*broker.Callback, error) {
	url, names := h.Get(api.HeaderCallbackURL), h.Get(api.HeaderCallbackEvents)
	if url == "" {
		if names != "" {
			return nil, fail("invalid-option", "%s is given without %s. Nothing was accepted.", api.HeaderCallbackEvents, api.HeaderCallbackURL)
		}
		return nil, nil
	}
	if s.CheckCallback == nil || len(url) > maxCallbackURL {
		return nil, failure{slug: "callback-refused"}
	}
	if err := s.CheckCallback(url); err != nil {
		return nil, fail("callback-refused", "The callback URL is refused: %v. Nothing was accepted.", err)
	}
	c := &broker.Callback{URL: url, Events: api.CallbackEventNames[:4]}
	if names != "" {
		c.Events = nil
		for name := range strings.SplitSeq(names, ",") {
			name = strings.TrimSpace(name)
			if !slices.Contains(api.CallbackEventNames, name) {
				return nil, fail("invalid-option", "%s names %q; it may list %s. Nothing was accepted.", api.HeaderCallbackEvents, name, strings.Join(api.CallbackEventNames, ", "))
			}
			if !slices.Contains(c.Events, name) {
				c.Events = append(c.Events, name)
			}
		}
	}
	return c, nil
}

func forwarded(h http.Header) (map[string]string, error) {
	out, size := map[string]string{}, 0
	for name, values := range h {
		custom := strings.HasPrefix(name, "X-") && !strings.HasPrefix(name, "X-Forwarded-") && !slices.Contains(proxyNames, textproto.CanonicalMIMEHeaderKey(name))
		if !custom && !slices.Contains(forwardedNames, name) {
			continue
		}
		value := strings.Join(values, ", ")
		out[strings.ToLower(name)] = value
		size += len(name) + len(value)
	}
	if len(out) > maxForwarded || size > maxForwardedBytes {
		return nil, fail("invalid-option", "There are %d headers of %d bytes to forward to the worker; at most %d of %d bytes together go. Nothing was accepted.", len(out), size, maxForwarded, maxForwardedBytes)
	}
	return out, nil
}
