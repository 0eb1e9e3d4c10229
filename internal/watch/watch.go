// Package watch carries wake-ups from Redis to those who wait in this process:
// long-polls and event streams.
//
//	h := watch.New(b, logger)
//	go h.Run(ctx)
//	r, err := h.Wait(ctx, id, changed) // a long-poll
//
//	w := h.Watch(id)                   // a stream: first watch, then attach and read,
//	defer w.Close()                    // so that no change falls between
//	<-w.Again()                        // look again
//
// There is one subscription a process, however many wait. A wake-up is a hint
// that carries no data: who is woken reads the record, and all who read at once
// share one read. Since hints can be lost, every ID that is waited for is also
// re-read every five seconds and after each reconnect.
package watch

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

const (
	rereadEvery  = 5 * time.Second
	rereadJitter = time.Second
	rereaders    = 64 // reads under way at once; they share pipelines
	detachWithin = time.Second
)

// ErrDraining is returned by Wait, with the newest record if there is one, when
// the process is about to stop.
var ErrDraining = errors.New("gateway is draining")

// Hub knows who in this process waits for which request.
type Hub struct {
	broker *broker.Broker
	log    *slog.Logger
	drain  chan struct{} // closed by Drain
	once   sync.Once

	mu     sync.Mutex // guards topics
	topics map[correlation.ID]*topic
}

// topic is one request that somebody waits for.
type topic struct {
	watches map[*Watch]struct{}
	seen    state // when it was last re-read
}

// state is what a change is measured by: as the ETag.
type state struct {
	status          broker.Status
	attempt, events int
}

// Watch is one waiter for one request.
type Watch struct {
	hub   *Hub
	id    correlation.ID
	again chan struct{} // capacity 1; the hub sends, the waiter receives, nobody closes
}

// New makes a hub; Run connects it.
func New(b *broker.Broker, log *slog.Logger) *Hub {
	return &Hub{broker: b, log: log, drain: make(chan struct{}), topics: map[correlation.ID]*topic{}}
}

// Run listens for wake-ups until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { h.broker.Wakes(ctx, h.wake, func() { h.reread(ctx) }) })
	all.Go(func() {
		for pause(ctx, rereadEvery+rand.N(rereadJitter)) {
			h.reread(ctx)
		}
	})
	all.Wait()
	return nil
}

// Drain lets every waiter go: long-polls answer with what is, streams close so
// that their clients resume elsewhere.
func (h *Hub) Drain() { h.once.Do(func() { close(h.drain) }) }

// Draining is closed once Drain was called.
func (h *Hub) Draining() <-chan struct{} { return h.drain }

// Waiters is how many waits are open, on how many distinct requests.
func (h *Hub) Waiters() (waiters, requests int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.topics {
		waiters += len(t.watches)
	}
	return waiters, len(h.topics)
}

// Watch registers a waiter in this process. Follow it by broker.Attach, which
// registers the process, and Close it.
func (h *Hub) Watch(id correlation.ID) *Watch {
	w := &Watch{hub: h, id: id, again: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[id]
	if t == nil {
		t = &topic{watches: map[*Watch]struct{}{}}
		h.topics[id] = t
	}
	t.watches[w] = struct{}{}
	return w
}

// Again receives when the request may have changed.
func (w *Watch) Again() <-chan struct{} { return w.again }

// Close ends the watch; the last one of a request detaches the process.
func (w *Watch) Close() {
	h := w.hub
	h.mu.Lock()
	t := h.topics[w.id]
	delete(t.watches, w)
	last := len(t.watches) == 0
	if last {
		delete(h.topics, w.id)
	}
	open := last && !t.seen.status.Terminal()
	h.mu.Unlock()
	if open {
		ctx, stop := context.WithTimeout(context.Background(), detachWithin)
		defer stop()
		if err := h.broker.Detach(ctx, w.id); err != nil {
			h.log.Debug("detach", "correlation_id", w.id, "error", err)
		}
	}
}

// Wait returns the record once enough says so, it is terminal, or ctx ends:
// then the newest there is, with no error. Errors are those of broker.Attach
// where nothing could be read at all, and ErrDraining.
func (h *Hub) Wait(ctx context.Context, id correlation.ID, enough func(broker.Record) bool) (broker.Record, error) {
	w := h.Watch(id)
	defer w.Close()
	var newest broker.Record
	for {
		// The read has its own time, so that a wait which just ended still answers.
		r, err := h.broker.Attach(context.WithoutCancel(ctx), id)
		switch {
		case err == nil:
			newest = r
			h.remember(r)
			if r.Status.Terminal() || enough(r) {
				return r, nil
			}
		case errors.Is(err, broker.ErrGone):
			return broker.Record{}, err
		}
		select {
		case <-w.Again():
			continue
		case <-ctx.Done():
		case <-h.drain:
			err = ErrDraining
		}
		if newest.Status != "" {
			return newest, nil
		}
		return broker.Record{}, err
	}
}

// wake passes a hint on. It never waits: a waiter that has one already looks
// again anyway.
func (h *Hub) wake(ids []correlation.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		if t := h.topics[id]; t != nil {
			t.signal()
		}
	}
}

func (t *topic) signal() {
	for w := range t.watches {
		select {
		case w.again <- struct{}{}:
		default:
		}
	}
}

// remember notes what a reader saw, so that reread wakes only about news.
func (h *Hub) remember(r broker.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.topics[r.ID]; t != nil {
		t.seen = stateOf(r)
	}
}

// Seen tells the hub what a stream has read.
func (w *Watch) Seen(r broker.Record) { w.hub.remember(r) }

func stateOf(r broker.Record) state { return state{r.Status, r.Attempt, r.Events} }

// reread looks at every request that is waited for, and wakes its waiters where
// something is new or can't be read.
func (h *Hub) reread(ctx context.Context) {
	h.mu.Lock()
	ids := make([]correlation.ID, 0, len(h.topics))
	for id := range h.topics {
		ids = append(ids, id)
	}
	h.mu.Unlock()
	slots := make(chan struct{}, rereaders)
	var all sync.WaitGroup
	for _, id := range ids {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			r, err := h.broker.Attach(ctx, id)
			h.mu.Lock()
			defer h.mu.Unlock()
			if t := h.topics[id]; t != nil && (err != nil || t.seen != stateOf(r)) {
				t.signal()
			}
		})
	}
	all.Wait()
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
