// Package callback brings outcomes and progress to the URLs that clients named.
//
//	guard, err := callback.NewGuard(allowedCIDRs)   // guard.CheckURL vets URLs at submit time
//	d, err := callback.New(b, callback.Options{Guard: guard, Secrets: secrets})
//	err = d.Run(ctx) // until ctx ends
//
// That a callback is owed is stored by the same operation as the event itself,
// and it stays in Redis until a receiver answered 2xx or the attempts are used
// up. Run takes owed callbacks, only as many as it has slots for: most are handed to the
// gateway that settled the reply, with the record; it claims the others, and reads the
// record. It signs the status document (Standard Webhooks) and posts it. What fails
// is put back with the time of its next attempt; a gateway that dies leaves what
// it had, which is handed out again after ten seconds, since who is alive says all the
// while that it still tells of what takes long. So receivers are told at least once, and
// find the same event ID each time.
//
// Pitfalls: callbacks of one request may overtake each other; their event
// numbers tell the order. A receiver that does not answer within 15 seconds is
// told again. The address is checked when the connection is made, not only when
// the URL is accepted: names change what they mean.
package callback

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/api/webhook"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	inFlight     = 64  // deliveries at once of what was claimed
	inHand       = 128 // of what was handed over, until it is written down what came of it
	perHost      = 8   // of them to one host
	perQuickHost = 48  // of them to one that answers at once

	claimBlock   = time.Second            // of one claim; bounds how long a drain waits for it
	troublePause = 250 * time.Millisecond // after an error of Redis, jittered
	settleBudget = 5 * time.Second        // to say in Redis what came of an attempt
	drainTime    = 5 * time.Second        // for deliveries under way when Run is told to end
)

// errDrain is the cause with which deliveries end that a drain interrupts.
var errDrain = errors.New("gateway is draining")

// Options of New. Guard and Secrets are required.
type Options struct {
	Guard     *Guard
	Secrets   []string // whsec_…; each signs, so that receivers can move from one to the other
	PublicURL string   // stands before the links; "" makes them paths
	Version   string   // of the gateway, for the User-Agent; default dev
	Logger    *slog.Logger
}

// Deliverer delivers callbacks. Its methods may be called from many goroutines.
type Deliverer struct {
	broker  *broker.Broker
	options Options
	log     *slog.Logger
	sender  *sender
	hosts   hosts
	counts  counts
	handed  atomic.Int64 // deliveries under way that were handed over
	kept    kept
}

// counts count since the start.
type counts struct{ delivered, failed, givenUp, dropped, held atomic.Int64 }

// Stats are counts since the start.
type Stats struct {
	Delivered int64 // callbacks that a receiver took
	Failed    int64 // attempts that are tried again
	GivenUp   int64 // callbacks nobody took
	Dropped   int64 // owed for a request or an event that is no longer there
	Held      int64 // times that one waited because its host was busy
}

// New makes a deliverer; Run starts it. webhook.ErrSecret where a secret is
// none, or there is none at all.
func New(b *broker.Broker, o Options) (*Deliverer, error) {
	signer, err := webhook.NewSigner(o.Secrets...)
	if err != nil {
		return nil, err
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Deliverer{
		broker: b, options: o, log: o.Logger, hosts: hosts{busy: map[string]*host{}}, kept: kept{since: map[place]time.Time{}},
		sender: newSender(o.Guard, signer, o.Version),
	}, nil
}

// Stats asks nobody.
func (d *Deliverer) Stats() Stats {
	return Stats{
		Delivered: d.counts.delivered.Load(), Failed: d.counts.failed.Load(), GivenUp: d.counts.givenUp.Load(),
		Dropped: d.counts.dropped.Load(), Held: d.counts.held.Load(),
	}
}

// Run delivers until ctx ends. Deliveries under way have five seconds more, then
// they are put back for another gateway.
func (d *Deliverer) Run(ctx context.Context) error {
	defer d.sender.transport.CloseIdleConnections()
	sending, interrupt := context.WithCancelCause(context.WithoutCancel(ctx))
	defer interrupt(nil)
	var all, keeping sync.WaitGroup
	keeping.Go(func() { d.keep(sending) })
	end := d.broker.TakeIntents(func() int { return inHand - int(d.handed.Load()) }, func(i broker.Intent) {
		d.handed.Add(1)
		all.Go(func() {
			defer d.handed.Add(-1)
			d.begin(ctx, sending, i)
		})
	})
	d.claim(ctx, sending, &all)
	end()
	budget := time.AfterFunc(drainTime, func() { interrupt(errDrain) })
	defer budget.Stop()
	all.Wait()
	interrupt(nil)
	keeping.Wait()
	return nil
}

// claim takes owed callbacks while there are free slots, until ctx ends.
func (d *Deliverer) claim(ctx, sending context.Context, all *sync.WaitGroup) {
	slots := make(chan struct{}, inFlight) // holds one element for each delivery; never closed
	trouble := loop.Trouble{Log: d.log}
	for {
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}: // wait for one free slot, and take only what fits
			<-slots
		}
		if ctx.Err() != nil { // both were ready
			return
		}
		// Not ctx: what Redis hands over while ctx ends must be put back.
		intents, err := d.broker.ClaimIntents(sending, inFlight-len(slots), claimBlock)
		for _, i := range intents {
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				d.begin(ctx, sending, i)
			})
		}
		if err != nil {
			trouble.Warn("callbacks are held up; trying again", "error", err)
			loop.Rest(ctx, troublePause+rand.N(troublePause))
		}
	}
}

// begin is deliver, until ctx ends.
func (d *Deliverer) begin(ctx, sending context.Context, i broker.Intent) {
	if ctx.Err() != nil {
		d.putBack(i, 0)
		return
	}
	defer d.kept.add(i)()
	d.deliver(sending, i)
}

// deliver makes one attempt at an owed callback.
func (d *Deliverer) deliver(ctx context.Context, i broker.Intent) {
	r, event, err := d.broker.Owed(ctx, i)
	switch {
	case errors.Is(err, broker.ErrGone) || err == nil && (r.Callback == nil || i.Type == "progress" && event == nil):
		d.counts.dropped.Add(1)
		d.about(i).Info("callback is dropped: what it tells of is no longer there")
		d.settle(i, func(ctx context.Context) error { return d.broker.Delivered(ctx, i) })
		return
	case err != nil: // nobody keeps it: it is handed out again
		d.about(i).Warn("read what a callback tells of", "error", err)
		return
	}
	release, hold := d.hosts.take(ctx, r.Callback.URL)
	if release == nil {
		d.counts.held.Add(1)
		d.putBack(i, hold)
		return
	}
	m, err := compose(i, r, event, d.options.PublicURL)
	if err != nil {
		release()
		d.about(i).Error("callback is dropped: it can't be written", "error", err)
		d.counts.dropped.Add(1)
		d.settle(i, func(ctx context.Context) error { return d.broker.Delivered(ctx, i) })
		return
	}
	v := d.sender.send(ctx, m)
	release() // what came of it is written down without the host
	d.conclude(ctx, i, v)
}

// about is a log of what happens to an intent, made where there is something to say.
func (d *Deliverer) about(i broker.Intent) *slog.Logger {
	return d.log.With("correlation_id", i.ID.String(), "type", i.Type, "number", i.Number, "attempt", i.Attempt)
}

// conclude writes down what came of an attempt.
func (d *Deliverer) conclude(ctx context.Context, i broker.Intent, v verdict) {
	if v.delivered {
		d.counts.delivered.Add(1)
		if d.log.Enabled(ctx, slog.LevelDebug) {
			d.about(i).Debug("callback delivered")
		}
		d.settle(i, func(ctx context.Context) error { return d.broker.Delivered(ctx, i) })
		return
	}
	if errors.Is(context.Cause(ctx), errDrain) { // our fault, not the receiver's
		d.putBack(i, 0)
		return
	}
	wait, again := next(i.Attempt, v.retryAfter)
	if !v.retry || !again {
		d.counts.givenUp.Add(1)
		d.about(i).Warn("callback is given up", "reason", v.reason)
		d.settle(i, func(ctx context.Context) error { return d.broker.Delivered(ctx, i) })
		return
	}
	d.counts.failed.Add(1)
	d.about(i).Info("callback failed; it is tried again", "reason", v.reason, "in", wait.Round(time.Millisecond))
	d.settle(i, func(ctx context.Context) error { return d.broker.Postpone(ctx, i, wait) })
}

// putBack hands an intent out again after a while, as the same attempt.
func (d *Deliverer) putBack(i broker.Intent, after time.Duration) {
	i.Attempt-- // Postpone counts one up
	d.settle(i, func(ctx context.Context) error { return d.broker.Postpone(ctx, i, after) })
}

// settle says in Redis what came of an attempt. It goes on while Redis is away
// for a while: without it, the callback is handed out once more.
func (d *Deliverer) settle(i broker.Intent, do func(context.Context) error) {
	end := time.Now().Add(settleBudget)
	err := do(context.Background()) // which bounds itself: a timer would be for nothing nearly always
	if err == nil {
		return
	}
	ctx, stop := context.WithDeadline(context.Background(), end)
	defer stop()
	for ; err != nil; err = do(ctx) {
		if errors.Is(err, broker.ErrClosed) || !loop.Rest(ctx, troublePause) {
			d.about(i).Warn("what came of a callback is not written down; it is handed out again", "error", err)
			return
		}
	}
}
