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
// What the gateway refuses comes back as an api.Problem (errors.As); its Type is
// stable to branch on.
//
// Calls are tried again where that can help: after a broken connection, after
// 408, 429, 500 and 502 to 504 as far as the gateway or a proxy says so, with
// growing pauses, never before Retry-After. A submit always carries an
// idempotency key, so that trying again can't submit twice. What can't change is
// not tried again: another refusal, a certificate that does not verify, and, as
// long as a Client never had a connection, an address where nothing listens
// (ErrNoGateway): that is a wrong address, not an outage.
//
// Pitfalls. Wait and Events go on until the outcome: give them a context that
// ends. A request that failed is no error of Wait: look at the status.
package client

import (
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Limits of one call.
const (
	dialTimeout   = 10 * time.Second
	answerTimeout = pollWait + 15*time.Second // until the headers of an answer: a gateway that says less is dead
	defaultReply  = 64 << 20                  // bytes of a reply, above any sensible max_body of a gateway
	maxDocument   = 16 << 20                  // bytes of a status document or problem; a reply inside has at most 64 KiB
)

// Client calls one gateway. Its methods may be called from many goroutines.
type Client struct {
	base     string
	http     *http.Client
	key      string
	maxReply int64
	reached  atomic.Bool // it had a connection, once
}

// Option changes a new Client.
type Option func(*Client)

// APIKey is sent with each call; none by default.
func APIKey(key string) Option { return func(c *Client) { c.key = key } }

// HTTP uses h instead of a client of its own. Its Timeout would cut streams.
func HTTP(h *http.Client) Option { return func(c *Client) { c.http = h } }

// MaxReply is how many bytes Reply takes into memory. Default 64 MiB.
func MaxReply(bytes int64) Option { return func(c *Client) { c.maxReply = bytes } }

// New makes a client of the gateway at base, e.g. http://127.0.0.1:8080.
func New(base string, options ...Option) *Client {
	c := &Client{base: strings.TrimRight(base, "/"), maxReply: defaultReply}
	for _, o := range options {
		o(c)
	}
	if c.http == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
		transport.ResponseHeaderTimeout = answerTimeout
		c.http = &http.Client{Transport: transport}
	}
	return c
}
