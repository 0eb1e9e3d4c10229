package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

const (
	tries        = 6
	firstPause   = 200 * time.Millisecond // doubling, jittered
	longestPause = 30 * time.Second       // also of a Retry-After that is honoured
)

// ErrNoGateway is returned by a Client that never had a connection, where nothing
// listens at its address or its host has no address.
var ErrNoGateway = errors.New("no gateway answers")

// ErrHeader is returned where a value that the caller gave, the API key included,
// can't stand in a header. Nothing was sent.
var ErrHeader = errors.New("can't be sent as a header: it has a control character, or its name is none")

// retryable marks an error that another try may mend, not before after.
type retryable struct {
	error
	after time.Duration
}

func (r retryable) Unwrap() error { return r.error }

// document calls and reads a status document. after is the answer's Retry-After.
func (c *Client) document(ctx context.Context, method, path string, h http.Header, body []byte) (s api.Status, after time.Duration, err error) {
	err = c.call(ctx, method, path, h, body, func(response *http.Response) error {
		raw, err := readAll(response, maxDocument)
		if err != nil {
			return err
		}
		s, after = api.Status{}, retryAfter(response.Header)
		if err := json.Unmarshal(raw, &s); err != nil || s.CorrelationID == "" {
			return errors.New("the answer is no status document: is this the address of a gateway?")
		}
		return nil
	})
	return s, after, err
}

// call sends until there is an answer that another try would not change, and
// has read take it. A try fails with its read, so read may run more than once.
func (c *Client) call(ctx context.Context, method, path string, h http.Header, body []byte, read func(*http.Response) error) error {
	for try := 1; ; try++ {
		response, err := c.once(ctx, method, path, h, body)
		if err == nil {
			err = read(response)
			response.Body.Close()
		}
		again, ok := errors.AsType[retryable](err)
		switch {
		case err == nil:
			return nil
		case !ok && ctx.Err() == nil:
			return fmt.Errorf("%s %s: %w", method, path, err)
		case ctx.Err() != nil || try == tries:
			return fmt.Errorf("%s %s: %w", method, path, bare(err))
		}
		if ending := rest(ctx, max(jittered(firstPause<<(try-1)), again.after)); ending != nil {
			return fmt.Errorf("%s %s: %w; the last try: %w", method, path, ending, bare(err))
		}
	}
}

// once sends one call. An answer is the gateway's own and no problem, or a
// worker's reply.
func (c *Client) once(ctx context.Context, method, path string, h http.Header, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a call: %w", err)
	}
	if s := request.URL.Scheme; s != "http" && s != "https" {
		return nil, fmt.Errorf("the gateway's address %q must begin with http:// or https://", c.base)
	}
	if h != nil {
		request.Header = h.Clone()
	}
	if c.key != "" {
		request.Header.Set("Authorization", "Bearer "+c.key)
	}
	if err := sendable(request.Header); err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.unanswered(ctx, err)
	}
	c.reached.Store(true)
	if response.Header.Get(api.HeaderOutcome) != "" || response.StatusCode < http.StatusBadRequest {
		return response, nil
	}
	defer response.Body.Close()
	return nil, refusal(response)
}

// sendable finds what net/http would refuse in an error that looks like one of
// the network. The value is not said: it may be a secret.
func sendable(h http.Header) error {
	for name, values := range h {
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r) }) {
			return fmt.Errorf("the name of header %q %w", name, ErrHeader)
		}
		for _, value := range values {
			if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				return fmt.Errorf("%s %w", name, ErrHeader)
			}
		}
	}
	return nil
}

// unanswered says whether a call that got no answer may get one later.
func (c *Client) unanswered(ctx context.Context, err error) error {
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	if ctx.Err() != nil || untrusted {
		return err
	}
	if !undialed(err) {
		c.reached.Store(true) // a connection that broke had been made: a gateway is there
	}
	if !c.reached.Load() {
		noHost, ok := errors.AsType[*net.DNSError](err)
		if ok && noHost.IsNotFound || errors.Is(err, syscall.ECONNREFUSED) {
			if outer, ok := errors.AsType[*url.Error](err); ok {
				err = outer.Err // without the URL, which is said already
			}
			return fmt.Errorf("%w at %s: %w", ErrNoGateway, c.base, err)
		}
	}
	return retryable{err, 0}
}

// undialed tells whether no connection was made, also where that is by way of a proxy.
func undialed(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && (op.Op == "dial" || undialed(op.Err))
}

// refusal reads an answer of 400 and above: a problem of the gateway, or what a
// proxy in front of it says.
func refusal(response *http.Response) error {
	raw, err := readAll(response, maxDocument)
	if err != nil {
		return err
	}
	after := retryAfter(response.Header)
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	var p api.Problem
	if media == "application/problem+json" && json.Unmarshal(raw, &p) == nil {
		if kind, ok := api.ProblemNamed(p.Type); ok && kind.Retry {
			return retryable{p, after}
		}
		return p
	}
	foreign := fmt.Errorf("answered %s, without a problem document: a proxy, or no gateway", response.Status)
	switch response.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return retryable{foreign, after}
	}
	return foreign
}

// readAll takes a body of at most limit bytes. One that breaks off may come
// whole the next time.
func readAll(response *http.Response, limit int64) ([]byte, error) {
	limit = min(limit, math.MaxInt64-1)
	raw, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return nil, retryable{fmt.Errorf("read the answer: %w", err), 0}
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, limit)
	}
	return raw, nil
}

// retryAfter reads both forms of the header; 0 where there is none.
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

// rest waits; an error is the context's.
func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(min(d, longestPause))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// jittered is between half of d and d, so that a crowd does not come back as one.
func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2) }

// bare takes the mark off: it is for this room alone.
func bare(err error) error {
	if r, ok := errors.AsType[retryable](err); ok {
		return r.error
	}
	return err
}
