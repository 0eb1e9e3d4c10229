package httpapi

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/coatcheck/coatcheck/api"
)

// Limits of what goes to an HTTP backend beside the body.
const (
	maxBackendHeaders = 64
	maxBackendBytes   = 16 << 10
	maxTarget         = 4 << 10
)

// hopByHop are meant for this connection alone (RFC 9110, section 7.6.1), or are
// written anew for the backend's.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade", "Expect", "Content-Length", "Content-Type", "Host", api.HeaderTraceparent, "X-Correlation-Id",
}

// targeted is what goes to the worker beside the body: the forwarded headers, or
// to an HTTP backend all that are not the gateway's own, and the target below the
// service where there is one.
func (s *Server) targeted(r *http.Request, service string) (map[string]string, error) {
	headers, err := forwarded(r.Header)
	if s.Upstreams[service] {
		headers, err = s.toBackend(r.Header)
	}
	if err != nil {
		return nil, err
	}
	path := chi.URLParam(r, "*")
	if path == "" && r.URL.RawQuery == "" && r.Method == http.MethodPost {
		return headers, nil
	}
	target := path
	if r.URL.RawQuery != "" {
		target += "?" + r.URL.RawQuery
	}
	switch {
	case len(target) > maxTarget:
		return nil, fail("invalid-option", "The path below the service and its query have %d bytes; at most %d go. Nothing was accepted.", len(target), maxTarget)
	case unfit(target):
		return nil, fail("invalid-option", "The path below the service has bytes that are not valid UTF-8 text, or control characters. Nothing was accepted.")
	case slices.ContainsFunc(strings.Split(path, "/"), dots):
		return nil, fail("invalid-option", "The path below the service has a . or .. in it, which could lead out of the service. Nothing was accepted.")
	}
	if headers == nil {
		headers = map[string]string{}
	}
	headers[api.TargetMethod], headers[api.TargetPath] = r.Method, target
	return headers, nil
}

// dots tells whether a segment means another place than itself, also where it is
// percent-encoded.
func dots(segment string) bool {
	meant := strings.ReplaceAll(strings.ToLower(segment), "%2e", ".")
	return meant == "." || meant == ".." || strings.ContainsAny(meant, "\\") || strings.Contains(meant, "%2f") || strings.Contains(meant, "%5c")
}

// toBackend are the headers for an HTTP backend. Where the gateway needs API keys,
// Authorization is its own and stays here.
func (s *Server) toBackend(h http.Header) (map[string]string, error) {
	own := slices.Clone(hopByHop)
	for name := range strings.SplitSeq(strings.Join(h.Values("Connection"), ","), ",") {
		own = append(own, http.CanonicalHeaderKey(strings.TrimSpace(name)))
	}
	if s.Keys != nil {
		own = append(own, "Authorization")
	}
	out, size := map[string]string{}, 0
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if slices.Contains(own, name) || strings.HasPrefix(name, api.OptionPrefix) || name == api.HeaderPrefer {
			continue
		}
		value := strings.Join(h.Values(name), ", ")
		if unfit(value) {
			return nil, fail("invalid-option", "Header %s has bytes that are not valid UTF-8 text, or control characters. Nothing was accepted.", quoted(name))
		}
		out[strings.ToLower(name)] = value
		size += len(name) + len(value)
	}
	if len(out) > maxBackendHeaders || size > maxBackendBytes {
		return nil, fail("invalid-option", "There are %d headers of %d bytes for the backend; at most %d of %d bytes together go. Nothing was accepted.", len(out), size, maxBackendHeaders, maxBackendBytes)
	}
	return out, nil
}

// ownHeaders of an answer are the gateway's word, or meant for the connection to
// the worker; a worker's are left out. Set-Cookie is too: a cookie would be set
// for the gateway, by whoever answers one of its services.
var ownHeaders = append([]string{
	"Date", "Set-Cookie", "Cache-Control", "Etag", "Last-Modified", "Expires", "Age", "Vary", "Retry-After", "Www-Authenticate", "Strict-Transport-Security",
	"Content-Security-Policy", "X-Content-Type-Options", "Clear-Site-Data", "Alt-Svc", api.HeaderPreferenceApplied, api.HeaderIdempotencyReplayed,
}, hopByHop...)

// replyHeaders sets those headers of a worker's reply that may stand in an answer
// of this gateway.
func replyHeaders(h http.Header, said map[string]string) {
	for name, value := range said {
		name = http.CanonicalHeaderKey(name)
		own := slices.Contains(ownHeaders, name) || strings.HasPrefix(name, api.OptionPrefix) || strings.HasPrefix(name, "Access-Control-") || strings.HasPrefix(name, "Cross-Origin-")
		if !own && !unfit(value) && validName(name) && len(h.Values(name)) == 0 {
			h.Set(name, value)
		}
	}
}

const tokenCharacters = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// validName tells whether a header may be called so (RFC 9110, section 5.1).
func validName(name string) bool {
	return name != "" && strings.Trim(name, tokenCharacters) == ""
}
