// Package client is the Go client of a gateway.
//
//	c := client.New("http://127.0.0.1:8080")
//	s, err := c.Submit(ctx, "resize", client.Request{ContentType: "image/png", Body: picture})
//	s, err = c.Wait(ctx, s.CorrelationID)         // until it has its outcome
//	reply, err := c.Reply(ctx, s.CorrelationID)
//
// or follow it:
//
//	for e, err := range c.Events(ctx, s.CorrelationID) { … }
//
// Calls are tried again where that can help: after a broken connection, 429,
// 502 to 504, honouring Retry-After. A submit always carries an idempotency
// key, so that trying again can't submit twice. What the gateway refuses comes
// back as an api.Problem (errors.As).
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

const (
	tries        = 6
	firstPause   = 200 * time.Millisecond // doubling, jittered
	longestPause = 30 * time.Second       // also of a Retry-After that is honoured
	pollWait     = 30 * time.Second       // of one long-poll
	maxDocument  = 16 << 20               // bytes of a status document or problem
)

// Client calls one gateway. Its methods may be called from many goroutines.
type Client struct {
	base string
	http *http.Client
	key  string
}

// Option changes a new Client.
type Option func(*Client)

// APIKey is sent with each call; none by default.
func APIKey(key string) Option { return func(c *Client) { c.key = key } }

// HTTP uses h instead of a client of its own. Its Timeout would cut streams.
func HTTP(h *http.Client) Option { return func(c *Client) { c.http = h } }

// New makes a client of the gateway at base, e.g. http://127.0.0.1:8080.
func New(base string, options ...Option) *Client {
	c := &Client{base: strings.TrimSuffix(base, "/"), http: &http.Client{}}
	for _, o := range options {
		o(c)
	}
	return c
}

// Request is what Submit hands in. Zero values leave what the gateway has set.
type Request struct {
	ContentType    string
	Body           []byte
	IdempotencyKey string            // default: a random one a call
	Header         map[string]string // further headers, such as traceparent

	Timeout, StartTimeout, RunTimeout, Retention time.Duration

	CallbackURL    string
	CallbackEvents []string // of api.CallbackEventNames; default: the four outcomes
}

// Submit hands a request in. The status has its correlation ID.
func (c *Client) Submit(ctx context.Context, service string, r Request) (api.Status, error) {
	h := http.Header{}
	for name, value := range r.Header {
		h.Set(name, value)
	}
	key := r.IdempotencyKey
	if key == "" {
		var raw [16]byte
		rand.Read(raw[:])
		key = hex.EncodeToString(raw[:])
	}
	h.Set(api.HeaderIdempotencyKey, key)
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set("Content-Type", r.ContentType)
	for name, d := range map[string]time.Duration{
		api.HeaderTimeout: r.Timeout, api.HeaderStartTimeout: r.StartTimeout,
		api.HeaderRunTimeout: r.RunTimeout, api.HeaderRetention: r.Retention,
	} {
		if d > 0 {
			h.Set(name, d.String())
		}
	}
	set(api.HeaderCallbackURL, r.CallbackURL)
	set(api.HeaderCallbackEvents, strings.Join(r.CallbackEvents, ","))
	var s api.Status
	return s, c.document(ctx, http.MethodPost, "/v1/services/"+url.PathEscape(service)+"/requests", h, r.Body, &s)
}

// Status reads where a request stands.
func (c *Client) Status(ctx context.Context, id string) (api.Status, error) {
	var s api.Status
	return s, c.document(ctx, http.MethodGet, requestPath(id, ""), nil, nil, &s)
}

// Wait long-polls until the request has its outcome, or ctx ends.
func (c *Client) Wait(ctx context.Context, id string) (api.Status, error) {
	path := requestPath(id, "") + "?wait=" + pollWait.String()
	for {
		var s api.Status
		if err := c.document(ctx, http.MethodGet, path, nil, nil, &s); err != nil || Terminal(s) {
			return s, err
		}
	}
}

// Terminal tells whether a request has its outcome.
func Terminal(s api.Status) bool { return !time.Time(s.FinishedAt).IsZero() }

// Cancel cancels a request. A problem already-terminal says that it had its
// outcome before.
func (c *Client) Cancel(ctx context.Context, id string) (api.Status, error) {
	var s api.Status
	return s, c.document(ctx, http.MethodPost, requestPath(id, "/cancel"), nil, nil, &s)
}

// Delete forgets a request now.
func (c *Client) Delete(ctx context.Context, id string) error {
	response, err := c.call(ctx, http.MethodDelete, requestPath(id, ""), nil, nil)
	if err == nil {
		response.Body.Close()
	}
	return err
}

// Reply is the worker's answer: its status code, content type and bytes.
type Reply struct {
	StatusCode  int
	ContentType string
	Body        []byte
}

// ErrPending is returned by Reply while there is no outcome.
var ErrPending = errors.New("the request has no outcome yet")

// Reply reads the raw reply. The worker's own status code may be one of an
// error; what the gateway says instead of a reply is an api.Problem.
func (c *Client) Reply(ctx context.Context, id string) (Reply, error) {
	response, err := c.call(ctx, http.MethodGet, requestPath(id, "/reply"), nil, nil)
	if err != nil {
		return Reply{}, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusAccepted && response.Header.Get(api.HeaderCorrelationID) == "" {
		return Reply{}, ErrPending
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return Reply{}, fmt.Errorf("read the reply: %w", err)
	}
	return Reply{response.StatusCode, response.Header.Get("Content-Type"), body}, nil
}

func requestPath(id, rest string) string { return "/v1/requests/" + url.PathEscape(id) + rest }

// document calls and reads a JSON answer.
func (c *Client) document(ctx context.Context, method, path string, h http.Header, body []byte, into any) error {
	response, err := c.call(ctx, method, path, h, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(io.LimitReader(response.Body, maxDocument)).Decode(into); err != nil {
		return fmt.Errorf("read the answer of %s %s: %w", method, path, err)
	}
	return nil
}

// call sends until there is an answer that another try would not change.
func (c *Client) call(ctx context.Context, method, path string, h http.Header, body []byte) (*http.Response, error) {
	for try := 1; ; try++ {
		response, err := c.once(ctx, method, path, h, body)
		if err == nil {
			return response, nil
		}
		var after retryable
		if !errors.As(err, &after) || try == tries {
			return nil, unwrap(err)
		}
		pause := firstPause << (try - 1)
		pause = pause/2 + mathrand.N(pause/2)
		select {
		case <-ctx.Done():
			return nil, unwrap(err)
		case <-time.After(min(max(pause, after.after), longestPause)):
		}
	}
}

// retryable marks an error that another try may mend.
type retryable struct {
	error
	after time.Duration
}

func (r retryable) Unwrap() error { return r.error }

func unwrap(err error) error {
	var r retryable
	if errors.As(err, &r) {
		return r.error
	}
	return err
}

func (c *Client) once(ctx context.Context, method, path string, h http.Header, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a call: %w", err)
	}
	if h != nil {
		request.Header = h.Clone()
	}
	if c.key != "" {
		request.Header.Set("Authorization", "Bearer "+c.key)
	}
	response, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, retryable{err, 0}
	}
	isProblem := strings.HasPrefix(response.Header.Get("Content-Type"), "application/problem+json")
	if !isProblem || response.Header.Get(api.HeaderCorrelationID) != "" { // with it: a worker's own reply
		return response, nil
	}
	defer response.Body.Close()
	var p api.Problem
	if err := json.NewDecoder(io.LimitReader(response.Body, maxDocument)).Decode(&p); err != nil {
		return nil, fmt.Errorf("read a problem (%s): %w", response.Status, err)
	}
	if kind, ok := api.ProblemNamed(p.Type); ok && kind.Retry {
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After")) // absent: the pause alone
		return nil, retryable{p, time.Duration(seconds) * time.Second}
	}
	return nil, p
}
