package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/worker"
)

const (
	maxDiscarded  = 64 << 10 // bytes read of an answer that is not wanted, so that the connection lives on
	attemptHeader = "Coatcheck-Attempt"
	maxKept       = 64 // headers of a reply
)

// tryAgain are the answers that say: not now (RFC 9110 and 6585).
var tryAgain = []int{
	http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway,
	http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

// answer calls the backend for one request.
func (u *Upstream) answer(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	done, err := u.breaker.Allow()
	if err != nil { // it tripped after the claim
		return worker.Reply{}, worker.Retry(errors.New("the backend is left alone for now"), leftAlone)
	}
	method, target := u.target(r)
	response, err := u.send(ctx, r, method, target, r.Body) //nolint:bodyclose // discard closes it
	if err == nil {
		response, err = u.poll(ctx, r, response) //nolint:bodyclose // discard closes it
	}
	if err != nil {
		if ctx.Err() != nil {
			done(nil) // nobody's fault, or not the backend's
			return worker.Reply{}, ctx.Err()
		}
		done(err)
		u.limit.overloaded()
		return worker.Reply{}, worker.Retry(fmt.Errorf("the backend could not be called: %w", withoutURL(err)), 0)
	}
	defer discard(response)
	if slices.Contains(tryAgain, response.StatusCode) {
		u.limit.overloaded()
		failure := error(nil)
		if response.StatusCode >= 500 {
			failure = errors.New(response.Status)
		}
		done(failure)
		return worker.Reply{}, worker.Retry(fmt.Errorf("the backend answered %s", response.Status), retryAfter(response.Header))
	}
	done(nil)
	u.limit.answered()
	body, err := u.read(ctx, r, response)
	if err != nil {
		return worker.Reply{}, err
	}
	reply := worker.Reply{
		ContentType: response.Header.Get("Content-Type"), Body: body,
		StatusCode: response.StatusCode, Headers: kept(response.Header), CacheTTL: cacheTTL(response.Header),
	}
	if response.StatusCode >= 400 {
		return reply, worker.Fail("upstream_"+strconv.Itoa(response.StatusCode), "The backend answered "+response.Status+".")
	}
	return reply, nil
}

// target is what the client asked for, behind the path of the backend.
func (u *Upstream) target(r *worker.Request) (method string, target *url.URL) {
	method = r.Headers[api.TargetMethod]
	if method == "" {
		method = http.MethodPost
	}
	to := *u.base
	path, query, _ := strings.Cut(r.Headers[api.TargetPath], "?")
	if path != "" {
		to = *to.JoinPath(strings.Split(path, "/")...)
		if strings.HasSuffix(path, "/") && !strings.HasSuffix(to.Path, "/") {
			to.Path += "/"
		}
	}
	to.RawQuery = strings.Trim(to.RawQuery+"&"+query, "&")
	return method, &to
}

func (u *Upstream) send(ctx context.Context, r *worker.Request, method string, target *url.URL, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	h := request.Header
	for name, value := range r.Headers {
		if !strings.HasPrefix(name, ":") {
			h.Set(name, value)
		}
	}
	if r.ContentType != "" && len(body) > 0 {
		h.Set("Content-Type", r.ContentType)
	}
	if r.Traceparent != "" {
		h.Set(api.HeaderTraceparent, r.Traceparent)
	}
	if h.Get("User-Agent") == "" {
		h.Set("User-Agent", "coatcheck")
	}
	h.Set(api.HeaderCorrelationID, r.ID)
	h.Set(attemptHeader, strconv.Itoa(r.Attempt))
	return u.client.Do(request)
}

// retryAfter reads seconds or a date; 0 lets the gateway choose, as where the number
// is none that anybody means: as a duration it would come out below 0, and a backend
// that is polled would be asked without a pause.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// hopByHop are meant for one connection alone (RFC 9110, section 7.6.1).
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Content-Type",
}

// kept are the headers that belong to the reply.
func kept(h http.Header) map[string]string {
	out := map[string]string{}
	hop := slices.Clone(hopByHop)
	for name := range strings.SplitSeq(h.Get("Connection"), ",") {
		hop = append(hop, http.CanonicalHeaderKey(strings.TrimSpace(name)))
	}
	for name, values := range h {
		if !slices.Contains(hop, name) && len(out) < maxKept {
			out[strings.ToLower(name)] = strings.Join(values, ", ")
		}
	}
	return out
}

func discard(response *http.Response) {
	_, _ = io.CopyN(io.Discard, response.Body, maxDiscarded)
	response.Body.Close()
}

// withoutURL leaves out the URL, which may hold a secret of the operator.
func withoutURL(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}
