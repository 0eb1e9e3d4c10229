package httpapi

import (
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/span"
)

// Limits of what is forwarded to a worker beside the body.
const (
	maxForwarded      = 32
	maxForwardedBytes = 8 << 10
	maxIdempotencyKey = 255
	maxAttempts       = 100
	minBackoff        = 10 * time.Millisecond
	maxBackoff        = time.Hour
)

// forwardedNames go to the worker, and so does every X- header but those that
// proxies write.
var forwardedNames = []string{
	"Accept", "Accept-Language", "Content-Encoding", "Content-Language", "Tracestate", "User-Agent",
}

// proxyNames are left out, and so is the name under which the gateway itself
// speaks of the request.
var proxyNames = []string{"X-Real-Ip", http.CanonicalHeaderKey(api.HeaderCorrelationID)}

// submission reads the options of a submit from its headers.
func (s *Server) submission(r *http.Request, service string) (broker.Submission, error) {
	h := r.Header
	sub := broker.Submission{
		Tenant: callOf(r).who.Tenant, Service: service,
		ContentType: h.Get("Content-Type"), Traceparent: traceparent(h), Minimal: preferences(h).returns == "minimal", Cache: cacheControl(h),
	}
	options, err := vet(h)
	if err != nil {
		return sub, err
	}
	if sub.IdempotencyKey, err = idempotencyKey(h); err != nil {
		return sub, err
	}
	if options {
		if sub, err = s.options(h, sub); err != nil {
			return sub, err
		}
	}
	sub.Headers, err = s.targeted(r, service)
	return sub, err
}

// options reads those of the gateway itself, which most submits have none of.
func (s *Server) options(h http.Header, sub broker.Submission) (_ broker.Submission, err error) {
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
		{api.HeaderBackoff, &sub.Backoff, minBackoff, maxBackoff},
	} {
		if *option.into, err = duration(h, option.name, option.min, option.max); err != nil {
			return sub, err
		}
	}
	if sub.Tags, err = tags(api.HeaderTag, h.Values(api.HeaderTag)); err != nil {
		return sub, err
	}
	if sub.Callback, err = s.callback(h); err != nil {
		return sub, err
	}
	err = policies(h, &sub, b.MaxDelay, time.Now())
	return sub, err
}

// vet refuses options that nobody knows, since a typing mistake must not pass
// in silence, and values that don't fit into frames and keys. It tells whether there
// are options of the gateway itself.
func vet(h http.Header) (options bool, err error) {
	for name, values := range h {
		option := strings.HasPrefix(name, api.OptionPrefix)
		options = options || option
		if option && !slices.Contains(api.Options, name) {
			return false, fail("invalid-option", "There is no option %s. Nothing was accepted; the options are %s.", quoted(name), strings.Join(api.Options, ", "))
		}
		single := option || name == "Content-Type"
		if single && len(values) > 1 && name != api.HeaderTag {
			return false, fail("invalid-option", "%s is given %d times. Nothing was accepted; give it once.", name, len(values))
		}
		if (single || isForwarded(name)) && slices.ContainsFunc(values, unfit) {
			return false, fail("invalid-option", "Header %s has bytes that are not valid UTF-8 text, or control characters. Nothing was accepted.", quoted(name))
		}
	}
	if len(h.Get("Content-Type")) > longestType {
		return false, fail("invalid-option", "Content-Type is longer than %d bytes. Nothing was accepted.", longestType)
	}
	return options, nil
}

// unfit tells whether a header value must not get into frames and keys. CR, LF
// and NUL never pass net/http; the rest of the control characters end here.
func unfit(v string) bool {
	return !utf8.ValidString(v) || strings.ContainsFunc(v, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// traceparentForm is version 00 of W3C Trace Context and what later ones begin
// with.
var traceparentForm = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,64})?$`)

// traceparent is carried as it came; one that can't be read, or more than one,
// is dropped, as the standard says (section 4.3).
func traceparent(h http.Header) string {
	if len(h.Values(api.HeaderTraceparent)) != 1 {
		return ""
	}
	value := h.Get(api.HeaderTraceparent)
	if unfit(value) || !traceparentForm.MatchString(value) {
		return ""
	}
	return value
}

// duration reads a Go duration or whole seconds; 0 where the header is absent.
func duration(h http.Header, name string, least, most time.Duration) (time.Duration, error) {
	if len(h.Values(name)) == 0 {
		return 0, nil
	}
	text := h.Get(name)
	d, ok := parseDuration(text)
	if !ok || d < least || d > most {
		return 0, fail("invalid-option", "%s is %s; it must be a duration from %s to %s, such as 30s or 5m, or whole seconds. Nothing was accepted.", name, quoted(text), span.Text(least), span.Text(most))
	}
	return d, nil
}

// parseDuration takes no negative ones.
func parseDuration(text string) (time.Duration, bool) {
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Duration(seconds) * time.Second, seconds >= 0 && seconds <= math.MaxInt64/int64(time.Second)
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
	if len(key) <= 2*maxIdempotencyKey {
		key = unquoted(key)
	}
	visible := !strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' })
	if len(values) > 1 || key == "" || len(key) > maxIdempotencyKey || !visible {
		return "", fail("invalid-option", "Idempotency-Key must be one value of 1 to %d visible ASCII characters. Nothing was accepted.", maxIdempotencyKey)
	}
	return key, nil
}

// callback reads where and about what the client wants to be told.
func (s *Server) callback(h http.Header) (*broker.Callback, error) {
	url, names := h.Get(api.HeaderCallbackURL), h.Get(api.HeaderCallbackEvents)
	if len(h.Values(api.HeaderCallbackURL)) == 0 {
		if len(h.Values(api.HeaderCallbackEvents)) > 0 {
			return nil, fail("invalid-option", "%s is given without %s. Nothing was accepted.", api.HeaderCallbackEvents, api.HeaderCallbackURL)
		}
		return nil, nil
	}
	if s.CheckCallback == nil {
		return nil, fail("callback-refused", "This gateway takes no callbacks. Nothing was accepted; poll, or follow the events.")
	}
	if err := s.CheckCallback(url); err != nil {
		return nil, fail("callback-refused", "It is not called because %v. Nothing was accepted.", err)
	}
	c := &broker.Callback{URL: url, Events: api.CallbackEventNames[:4]} // the outcomes
	if len(h.Values(api.HeaderCallbackEvents)) > 0 {
		c.Events = nil
		for name := range strings.SplitSeq(names, ",") {
			name = strings.TrimSpace(name)
			if !slices.Contains(api.CallbackEventNames, name) {
				return nil, fail("invalid-option", "%s names %s; it may list %s. Nothing was accepted.", api.HeaderCallbackEvents, quoted(name), strings.Join(api.CallbackEventNames, ", "))
			}
			if !slices.Contains(c.Events, name) {
				c.Events = append(c.Events, name)
			}
		}
	}
	return c, nil
}

// forwarded is what goes to the worker beside the body, by lower-case names.
// What Connection names was meant for this hop alone (RFC 9110, section 7.6.1).
func forwarded(h http.Header) (map[string]string, error) {
	out, size := map[string]string{}, 0
	var hop []string
	for _, line := range h.Values("Connection") {
		for name := range strings.SplitSeq(line, ",") {
			hop = append(hop, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	for name, values := range h {
		if !isForwarded(name) || slices.Contains(hop, name) {
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

// isForwarded takes a name in its canonical form, as net/http keeps it.
func isForwarded(name string) bool {
	custom := strings.HasPrefix(name, "X-") && !strings.HasPrefix(name, "X-Forwarded-") && !slices.Contains(proxyNames, name)
	return custom || slices.Contains(forwardedNames, name)
}
