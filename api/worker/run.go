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
	slots  chan struct{} // holds one element for each free slot; never closed
	clock  clock

	work    context.Context // of all handlers; outlives Run's own until the drain is over
	handler sync.WaitGroup

	claiming context.Context    // ends with Run's own, or when the worker is told to drain
	quiet    context.CancelFunc // ends it

	mu   sync.Mutex // guards jobs
	jobs map[*job]struct{}
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
		slots: make(chan struct{}, w.options.concurrency),
		work:  work, jobs: map[*job]struct{}{},
	}
	for range w.options.concurrency {
		r.slots <- struct{}{}
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
		select {
		case <-ctx.Done():
			return
		case <-r.slots:
		}
		free := 1 + r.takeFree()
		if ctx.Err() != nil { // both were ready
			return
		}
		if free = r.limited(free); free == 0 {
			loop.Rest(ctx, limitPause)
			continue
		}
		asked := time.Now()
		// Not ctx: what Redis hands over while ctx ends must reach a handler.
		deliveries, err := r.broker.Claim(r.work, r.broker.Name(), services, free, claimBlock)
		for _, d := range deliveries {
			if r.begin(d) {
				free--
			}
		}
		for range free {
			r.slots <- struct{}{}
		}
		if err != nil {
			trouble.Warn("the worker can't claim work; trying again", "error", err)
			loop.Rest(ctx, troublePause+rand.N(troublePause)-time.Since(asked)) // what timed out has rested
		}
	}
}

// limited gives those of the free slots back that the limit does not allow now,
// and returns how many are left.
func (r *run) limited(free int) int {
	if r.options.limit == nil {
		return free
	}
	may := max(0, min(free, r.options.limit()-(r.options.concurrency-len(r.slots)-free)))
	for range free - may {
		r.slots <- struct{}{}
	}
	return may
}

// takeFree takes the slots that are free besides the first.
func (r *run) takeFree() (n int) {
	for {
		select {
		case <-r.slots:
			n++
		default:
			return n
		}
	}
}

// begin starts the handler of a delivery; the slot is given back when it ends.
func (r *run) begin(d broker.Delivery) bool {
	s := r.services[d.Service]
	if s == nil || d.Token == "" || d.ReplyTo == "" {
		r.log.Error("work entry that no gateway wrote; it is left alone", "correlation_id", d.ID, "service", d.Service)
		return false
	}
	j := r.newJob(d, s.handler)
	r.mu.Lock()
	r.jobs[j] = struct{}{}
	r.mu.Unlock()
	r.handler.Go(func() {
		defer r.end(j)
		j.work()
	})
	return true
}

func (r *run) end(j *job) {
	r.mu.Lock()
	delete(r.jobs, j)
	r.mu.Unlock()
	r.slots <- struct{}{}
}

// canceled ends the handlers of a request, of every attempt at it. The service
// counts: another leg of the same scatter may run here too.
func (r *run) canceled(service, id string) {
	for _, j := range r.running() {
		if j.delivery.ID == id && j.delivery.Service == service {
			j.cancel(ErrCanceled)
		}
	}
}

func (r *run) running() []*job {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.jobs))
}
