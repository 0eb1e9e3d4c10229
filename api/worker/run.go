package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	claimBlock   = time.Second            // of one claim; bounds how long a drain waits for it
	troublePause = 250 * time.Millisecond // after an error of Redis, jittered
	limitPause   = 50 * time.Millisecond  // while the limit lets nothing begin
	listenWait   = 2 * time.Second        // for the first subscription; without it a worker works all the same
	clockEvery   = time.Minute            // clocks drift by milliseconds a minute
)

// run is one call of Run.
type run struct {
	*Worker
	broker *broker.Broker
	log    *slog.Logger
	slots  *slots
	clock  clock

	work    context.Context // of all handlers; outlives Run's own until the drain is over
	handler sync.WaitGroup
	fresh   chan *job   // with a slot and no goroutine yet: begin sends, handle receives, nobody closes
	coming  atomic.Bool // a goroutine is on its way to what is fresh

	claiming context.Context    // ends with Run's own, or when the worker is told to drain
	quiet    context.CancelFunc // ends it
}

// Run answers requests until ctx ends; then it claims no more, lets running
// handlers finish within the grace, gives the rest back, and returns nil.
//
// It waits for a Redis that is not there yet. An error means that the worker
// can't run as it is set up.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.check(); err != nil {
		return err
	}
	b, err := w.open(ctx)
	if b == nil {
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	claiming, quiet := context.WithCancel(ctx)
	defer quiet()
	r := &run{
		Worker: w, broker: b, claiming: claiming, quiet: quiet, log: w.options.logger.With("worker", b.Name()),
		slots: newSlots(w.options.concurrency), work: work, fresh: make(chan *job, w.options.concurrency),
	}
	names := slices.Sorted(maps.Keys(w.services))
	var upkeep sync.WaitGroup
	upkeep.Go(func() { b.Run(work) })
	listening, begun := context.WithCancel(work)
	upkeep.Go(func() { b.Orders(work, names, r.canceled, r.quiet, begun) })
	r.clock.measure(ctx, b) // before the first claim: its deadline must not seem over
	upkeep.Go(func() { r.clock.follow(work, b) })
	loop.Rest(listening, listenWait) // a cancel that came before would not be heard
	upkeep.Go(func() { r.enlist(ctx) })
	upkeep.Go(func() { r.heartbeats(work) })
	r.log.Info("worker answers", "services", names, "slots", w.options.concurrency)

	r.claim(claiming, names)
	<-ctx.Done()
	r.drain()
	stop()
	upkeep.Wait()
	r.delist(ctx)
	if err := b.Close(); err != nil {
		return fmt.Errorf("close the connections to Redis: %w", err)
	}
	r.log.Info("worker ended")
	return nil
}

// open connects and announces the services, waiting for Redis. It returns
// nothing where ctx ended first.
func (w *Worker) open(ctx context.Context) (*broker.Broker, error) {
	announced := make(map[string]broker.Announcement, len(w.services))
	for name, s := range w.services {
		announced[name] = broker.Announcement{Lease: s.lease, Cacheable: s.cacheTTL > 0}
	}
	trouble := loop.Trouble{Log: w.options.logger}
	for ctx.Err() == nil {
		b, err := broker.Open(ctx, broker.Options{
			URL: w.url, Name: w.options.name, Logger: w.options.logger, Dial: w.options.dial,
		})
		if err == nil {
			if err = b.Announce(ctx, announced); err == nil {
				return b, nil
			}
			b.Close()
		}
		if !errors.Is(err, broker.ErrUnavailable) {
			return nil, fmt.Errorf("worker: %w", err)
		}
		trouble.Warn("the worker waits for Redis", "error", err)
		loop.Rest(ctx, troublePause+rand.N(troublePause))
	}
	return nil, nil
}

// claim takes work while there are free slots, until ctx ends.
func (r *run) claim(ctx context.Context, services []string) {
	trouble := loop.Trouble{Log: r.log}
	for {
		free := r.limited(r.slots.wait(ctx))
		if ctx.Err() != nil {
			return
		}
		if free == 0 {
			loop.Rest(ctx, limitPause)
			continue
		}
		asked := time.Now()
		// Not ctx: what Redis hands over while ctx ends must reach a handler.
		deliveries, err := r.broker.Claim(r.work, r.broker.Name(), services, free, claimBlock)
		r.begin(deliveries)
		if err != nil {
			trouble.Warn("the worker can't claim work; trying again", "error", err)
			loop.Rest(ctx, troublePause+rand.N(troublePause)-time.Since(asked)) // what timed out has rested
		}
	}
}

// limited is how many of the free slots may be used now.
func (r *run) limited(free int) int {
	if r.options.limit == nil {
		return free
	}
	return max(0, min(free, r.options.limit()-(r.options.concurrency-free)))
}

// begin starts the handlers of deliveries, for which there are slots.
func (r *run) begin(deliveries []broker.Delivery) {
	jobs, now := make([]*job, 0, len(deliveries)), time.Now()
	for _, d := range deliveries {
		s := r.services[d.Service]
		if s == nil || d.Token == "" || d.ReplyTo == "" {
			r.log.Error("work entry that no gateway wrote; it is left alone", "correlation_id", d.ID, "service", d.Service)
			continue
		}
		jobs = append(jobs, r.newJob(d, s.handler, now))
	}
	r.slots.begin(jobs)
	r.handler.Add(len(jobs))
	for _, j := range jobs {
		r.fresh <- j
		r.follow()
	}
}

// follow has a goroutine come for what is fresh, unless one is on its way.
func (r *run) follow() {
	if len(r.fresh) > 0 && r.coming.CompareAndSwap(false, true) {
		go r.handle()
	}
}

// handle runs one handler after the other, until nothing is fresh. Before each, it has
// another goroutine come, which takes the next one if this takes its time: so handlers that
// return at once share a goroutine, and one that does not holds nobody up.
func (r *run) handle() {
	r.coming.Store(false)
	for {
		select {
		case j := <-r.fresh:
			r.follow()
			j.work()
		default:
			return
		}
	}
}

func (r *run) end(j *job) {
	r.slots.end(j)
	r.handler.Done()
}

// canceled ends the handlers of a request, of every attempt at it. The service
// counts: another leg of the same scatter may run here too.
func (r *run) canceled(service, id string) {
	for _, j := range r.slots.running() {
		if j.delivery.ID == id && j.delivery.Service == service {
			j.ctx.cancel(ErrCanceled)
		}
	}
}
