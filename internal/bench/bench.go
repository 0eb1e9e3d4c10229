// Package bench is a load generator that believes nothing: it submits requests
// to a gateway, sees their replies as a client would, and counts each one that
// is lost, doubled, wrong or out of order.
//
//	result, err := bench.Run(ctx, bench.Options{URL: "http://127.0.0.1:8080", Service: "echo", Via: bench.SSE, …})
//	checks, err := bench.ParseChecks([]string{"p99<50ms", "lost=0"})
//	result.WriteTable(os.Stdout)
//
// The service must give back what it gets, as the demo's echo does: each request
// has a body that no other has, and its reply must be that body.
//
// A closed loop (Rate 0) has every client submit again as soon as it has its
// reply, and tells how much the gateway carries. A fixed rate submits on a
// schedule, whatever the gateway does, and tells how long a reply takes: each
// latency begins at the scheduled instant, so that a stall counts for all who
// would have come during it.
//
// Pitfalls. The generator takes its share of the machine it runs on; what a
// request costs it is in the result. With Via Submit nobody waits for replies:
// without workers the queue fills up to max_queued, and submits are refused.
package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Via is how a reply is seen.
type Via string

// The ways. Every one but Submit ends with the reply.
const (
	Submit  Via = "submit"  // the 202 alone
	Poll    Via = "poll"    // the status, asked for again and again
	Wait    Via = "wait"    // a long-poll of the status
	SSE     Via = "sse"     // the stream of events
	Webhook Via = "webhook" // a signed callback to a listener of the generator
)

// Ways are all of them, as a user may name them.
var Ways = []Via{Submit, Poll, Wait, SSE, Webhook}

// Limits of a run.
const (
	maxClients = 20_000
	maxBody    = 64 << 20
	maxRate    = 1_000_000
	maxTime    = 24 * time.Hour
)

// Options of a run. URL, Service, Via, Body, Clients and Duration are required.
type Options struct {
	URL     string // of the gateway, with http:// or https://
	APIKey  string // "" for none
	Service string
	Via     Via
	Body    int // bytes, at least MinBody

	Clients  int           // connections; each has one request open at a time
	Rate     float64       // requests a second; 0 is a closed loop
	Warmup   time.Duration // before anything is measured; checked all the same
	Duration time.Duration // of the measurement, at most
	Requests int           // in all, at most; 0 for no such bound

	PollEvery time.Duration // between two polls; default 100 ms
	Timeout   time.Duration // for one reply, which counts as lost then; default 30 s

	Receiver Receiver // of Via Webhook

	// Progress is told once a second how it goes; nil tells nobody.
	Progress func(Progress)
	// Measuring is called with true when the measurement begins and with false when
	// it ends; nil for nobody.
	Measuring func(bool)
}

// Receiver is where callbacks come in.
type Receiver struct {
	Listen   string   // default 127.0.0.1:0
	URL      string   // how the gateway reaches it; default http:// and its address
	Secrets  []string // that callbacks are signed with
	Unsigned bool     // take callbacks as they come
}

// ErrOptions is returned where a run can't be made as it is asked for.
var ErrOptions = errors.New("the load can't be made")

// ErrNoGateway is returned where nothing answers when the run begins.
var ErrNoGateway = errors.New("no gateway answers")

func (o *Options) check() error {
	if o.PollEvery == 0 {
		o.PollEvery = 100 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Receiver.Listen == "" {
		o.Receiver.Listen = "127.0.0.1:0"
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrOptions}, args...)...)
	}
	switch {
	case !slices.Contains(Ways, o.Via):
		return wrong("via is %q; it must be one of %v", o.Via, Ways)
	case o.Service == "":
		return wrong("the service has no name")
	case o.Body < MinBody || o.Body > maxBody:
		return wrong("a body of %d bytes is outside %d..%d: it has to be unlike any other", o.Body, MinBody, maxBody)
	case o.Clients < 1 || o.Clients > maxClients:
		return wrong("%d clients are outside 1..%d", o.Clients, maxClients)
	case o.Rate < 0 || o.Rate > maxRate:
		return wrong("a rate of %v is outside 0..%d a second", o.Rate, maxRate)
	case o.Duration <= 0 || o.Duration > maxTime || o.Warmup < 0 || o.Warmup > maxTime:
		return wrong("a duration of %v after %v is outside 0..%v", o.Duration, o.Warmup, maxTime)
	case o.Requests < 0:
		return wrong("%d requests are less than none", o.Requests)
	case o.PollEvery < time.Millisecond || o.Timeout < time.Millisecond:
		return wrong("polls every %v, and a timeout of %v: both must be at least 1ms", o.PollEvery, o.Timeout)
	case o.Via == Webhook && !o.Receiver.Unsigned && len(o.Receiver.Secrets) == 0:
		return wrong("callbacks are signed, and without the gateway's secret nobody can verify them")
	}
	return nil
}

// Run makes the load and returns what came of it. It ends by itself, after
// Warmup and Duration, and at most a Timeout for the last replies. Where ctx ends
// before, the result tells of what was until then. Errors: ErrOptions,
// ErrNoGateway, and what the gateway says where it takes nothing at all.
func Run(ctx context.Context, o Options) (Result, error) {
	if err := o.check(); err != nil {
		return Result{}, err
	}
	to, err := parseTarget(o.URL)
	if err != nil {
		return Result{}, err
	}
	r := newRun(o, to)
	if o.Via == Webhook {
		if r.receiver, err = listen(r); err != nil {
			return Result{}, err
		}
		defer r.receiver.close()
	}
	return r.run(ctx)
}
