// Package upstream answers the requests of a service by calling an HTTP backend,
// so that any synchronous HTTP API becomes asynchronous without a change.
//
//	u, err := upstream.New(upstream.Options{RedisURL: url, Service: "resize", URL: "http://backend/api"})
//	err = u.Run(ctx) // until ctx ends, then drains
//
// It is a worker like any other: leases, heartbeats, attempts, cancel and drain
// are those of api/worker. Method, path below the service, query and headers go
// to the backend; its status code, headers and body are the reply. What it sends
// piece by piece is passed on as partial replies. 408, 429, 502, 503, 504 and a
// broken connection are tried again, by the Retry-After of the backend if it has
// one. A 202 with a Location on the same host is polled until it is done.
//
// How many calls are under way follows the backend's answers: one more while it
// answers, fewer at once where it is overloaded. A backend that fails five times
// in a row is left alone for ten seconds; its requests stay queued meanwhile, and
// lose no attempt.
//
// Pitfalls: redirects are not followed, they are the reply. The address of a
// backend is the operator's word, so private ones are fine.
package upstream

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/coatcheck/coatcheck/api/worker"
)

// Limits of the calls to a backend.
const (
	DefaultConcurrency = 64

	connectTimeout = 5 * time.Second
	idleTimeout    = 90 * time.Second
	maxHeaders     = 64 << 10         // bytes of an answer's headers
	failuresInARow = 5                // before a backend is left alone
	leftAlone      = 10 * time.Second // for how long
)

// Options of New. RedisURL, Service and URL are required.
type Options struct {
	RedisURL    string
	Service     string
	URL         string // http or https; the path of a request goes behind its own
	Concurrency int    // most calls at once; default 64
	MaxReply    int    // bytes of a reply; default 10 MiB
	Name        string // of the worker; default host-pid-random
	Logger      *slog.Logger

	// Dial connects to Redis; default: the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Upstream calls one backend.
type Upstream struct {
	Options
	base    *url.URL
	client  *http.Client
	limit   *limit
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	worker  *worker.Worker
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%q is no http or https URL of a backend, without user and fragment", text)
	}
	return u, nil
}

// New makes the worker of one service; Run starts it.
func New(o Options) (*Upstream, error) {
	base, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	if o.Concurrency == 0 {
		o.Concurrency = DefaultConcurrency
	}
	if o.MaxReply == 0 {
		o.MaxReply = 10 << 20
	}
	u := &Upstream{Options: o, base: base, limit: newLimit(o.Concurrency)}
	u.client = &http.Client{
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: connectTimeout}).DialContext,
			TLSHandshakeTimeout: connectTimeout, IdleConnTimeout: idleTimeout,
			MaxIdleConns: o.Concurrency, MaxIdleConnsPerHost: o.Concurrency, MaxResponseHeaderBytes: maxHeaders,
			DisableCompression: true, // the bytes go through as they are
			ForceAttemptHTTP2:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	u.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: o.Service, Timeout: leftAlone,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failuresInARow },
		OnStateChange: func(service string, _, to gobreaker.State) {
			switch to {
			case gobreaker.StateOpen:
				o.Logger.Error("a backend fails and is left alone; its requests stay queued", "service", service, "for", leftAlone)
			case gobreaker.StateClosed:
				o.Logger.Info("a backend answers again", "service", service)
			}
		},
	})
	options := []worker.Option{worker.Concurrency(o.Concurrency), worker.Limit(u.slots), worker.Logger(o.Logger)}
	if o.Name != "" {
		options = append(options, worker.Name(o.Name))
	}
	if o.Dial != nil {
		options = append(options, worker.Dialer(o.Dial))
	}
	u.worker = worker.New(o.RedisURL, options...)
	u.worker.Handle(o.Service, u.answer)
	return u, nil
}

// Run answers requests until ctx ends, then drains as every worker does.
func (u *Upstream) Run(ctx context.Context) error { return u.worker.Run(ctx) }

// slots is how many calls may be under way now: none while the backend is left
// alone, one to find out whether it is back.
func (u *Upstream) slots() int {
	switch u.breaker.State() {
	case gobreaker.StateOpen:
		return 0
	case gobreaker.StateHalfOpen:
		return 1
	}
	return u.limit.now()
}

// sameOrigin tells whether a URL leads to the backend itself.
func (u *Upstream) sameOrigin(other *url.URL) bool {
	return other.Scheme == u.base.Scheme && strings.EqualFold(other.Host, u.base.Host)
}
