// Package watch carries wake-ups from Redis to those who wait in this process:
// long-polls and event streams.
//
//	h := watch.New(b, logger)
//	go h.Run(ctx)
//	r, err := h.Wait(ctx, id, most, enough) // a long-poll
//
//	w := h.Watch(id)          // a stream: first watch, then attach and read,
//	defer w.Close()           // so that no change falls between
//	r, err := w.Attach(ctx)
//	<-w.Again()               // look again
//
// There is one subscription a process, however many wait. A wake-up is a hint: who is
// woken reads the record, and all who wait for the same request share that read. One
// that tells of the outcome stands for that read to who has seen the request open: see
// told.go. Who waits for what was handed in here a moment ago is told without any read:
// see expect.go. Since hints can be lost, every ID that is waited for is also re-read every
// five seconds and after each reconnect. Who only polls, by Poll, shares reads where a
// crowd does.
//
// Pitfalls: Again tells that something may have changed, not that it did. While
// Redis is away a read fails at once; who wants to go on asks again after
// Watch.Pause.
package watch

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	rereadEvery  = 5 * time.Second        // at least, from one begin to the next
	rereadJitter = time.Second            // off it: gateways that started together must not read together
	afterTrouble = 500 * time.Millisecond // between rounds while Redis is away, at least
	rereaders    = 64                     // reads under way at once; they share pipelines
	detachWithin = time.Second
)

// Hub knows who in this process waits for which request.
type Hub struct {
	broker *broker.Broker
	log    *slog.Logger
	resume chan struct{} // capacity 1; the subscription sends, Run receives: hints may have been lost
	drain  chan struct{} // closed by Drain
	once   sync.Once

	mu     sync.Mutex // guards topics and what is in them, and what is expected
	topics map[correlation.ID]*topic

	expected map[correlation.ID]*expected
	order    []*expected       // oldest first; some are expected no more
	habits   map[string]*habit // by service

	listeners map[correlation.ID]map[*Listener]struct{} // of batches; guarded by mu

	polls polls
}

// topic is one request that somebody waits for.
type topic struct {
	watches []*Watch        // in no order
	seen    broker.Sight    // what the latest read found; zero: nothing read yet
	base    *broker.Record  // that read, while it is open and fresh; see told.go
	told    *Answer         // base with its outcome; nil: none was told
	unread  bool            // base is what was accepted here: nobody has read it yet
	next    map[int]*flight // by the event number asked from: reads that have not left yet
	turn    chan struct{}   // capacity 1: one read of this request at a time; nil before the first
}

// Watch is one waiter for one request.
type Watch struct {
	hub   *Hub
	id    correlation.ID
	topic *topic
	place int           // among the watches of the topic; guarded by the hub
	seen  bool          // it has attached; guarded by the hub
	again chan struct{} // capacity 1; the hub sends, the waiter receives, nobody closes
	tell  func()        // instead of again, once it is set; guarded by the hub
}

// New makes a hub; Run connects it.
func New(b *broker.Broker, log *slog.Logger) *Hub {
	return &Hub{
		broker: b, log: log, topics: map[correlation.ID]*topic{}, listeners: map[correlation.ID]map[*Listener]struct{}{},
		expected: map[correlation.ID]*expected{}, habits: map[string]*habit{},
		resume: make(chan struct{}, 1), drain: make(chan struct{}),
		polls: polls{paid: map[correlation.ID]time.Time{}, next: map[correlation.ID]*poll{}},
	}
}

// Run listens for wake-ups until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() {
		h.broker.Wakes(ctx, h.wake, func() {
			h.unexpect()
			poke(h.resume)
		})
	})
	all.Go(func() {
		next := rereadEvery
		for {
			select {
			case <-ctx.Done():
				return
			case <-h.resume:
			case <-time.After(next - loop.Jitter(h.broker.Name(), rereadJitter)):
			}
			begun := time.Now()
			if err := h.reread(ctx); err != nil {
				next = afterTrouble + rereadJitter
			} else {
				next = rereadEvery - time.Since(begun)
			}
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

// Watch registers a waiter in this process. Follow it by Attach, which
// registers the process, and Close it.
func (h *Hub) Watch(id correlation.ID) *Watch {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[id]
	if t == nil {
		t = &topic{}
		h.topics[id] = t
	}
	w := &Watch{hub: h, id: id, topic: t, place: len(t.watches), again: make(chan struct{}, 1)}
	t.watches = append(t.watches, w)
	h.meet(w)
	return w
}

// Tell has the hub call f, instead of sending to Again, when the request may have
// changed. f must not wait.
func (w *Watch) Tell(f func()) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if len(w.again) > 0 {
		f()
	}
	w.tell, w.again = f, nil
}

// Poke says that the request may have changed.
func (w *Watch) Poke() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	w.poke()
}

func (w *Watch) poke() {
	if w.tell != nil {
		w.tell()
	} else {
		poke(w.again)
	}
}

// Again receives when the request may have changed.
func (w *Watch) Again() <-chan struct{} { return w.again }

// Close ends the watch; the last one of a request detaches the process.
func (w *Watch) Close() {
	h := w.hub
	h.mu.Lock()
	t := w.topic
	n := len(t.watches) - 1
	t.watches[w.place] = t.watches[n]
	t.watches[w.place].place = w.place
	t.watches[n], t.watches = nil, t.watches[:n]
	last := n == 0
	if last {
		delete(h.topics, w.id)
	}
	open := last && !over(t.seen)
	h.mu.Unlock()
	if !open || h.broker.Ready() != nil {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), detachWithin)
	defer stop()
	if err := h.broker.Detach(ctx, w.id); err != nil {
		h.log.Debug("detach", "correlation_id", w.id.String(), "error", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if again := h.topics[w.id]; again != nil { // somebody came meanwhile, and may have been detached with us
		again.signal(nil)
	}
}

// over tells that nothing more will happen to a request.
func over(s broker.Sight) bool { return s == broker.Gone || s.Status.Terminal() }

// wake passes hints on. It never waits: a waiter that has one already looks
// again anyway.
func (h *Hub) wake(wakes []broker.Wake) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range wakes {
		h.polls.hurry(w.ID)
		if t := h.topics[w.ID]; t != nil {
			t.end(w.Outcome)
			t.signal(nil)
		} else if e := h.expected[w.ID]; e != nil {
			e.happened(w.Outcome)
		}
		for l := range h.listeners[w.ID] {
			poke(l.again)
		}
	}
}

// signal tells every waiter but those that know already to look again.
func (t *topic) signal(know map[*Watch]struct{}) {
	for _, w := range t.watches {
		if _, ok := know[w]; !ok {
			w.poke()
		}
	}
}

// reread looks at every request that is waited for, and reads those that changed.
// What is new wakes its waiters; see learn.
func (h *Hub) reread(ctx context.Context) error {
	topics, ids := map[correlation.ID]*topic{}, []correlation.ID{}
	h.mu.Lock()
	h.forgetOld(time.Now())
	for id, t := range h.topics {
		topics[id] = t
		ids = append(ids, id)
		t.base = nil // most that waited for so long wait on, and it is as large as all else that is kept of them
	}
	h.mu.Unlock()
	now, err := h.broker.Glance(ctx, ids)
	if err != nil {
		return err
	}
	h.mu.Lock()
	for id, sight := range now {
		if topics[id].seen == sight {
			delete(topics, id)
		}
	}
	h.mu.Unlock()
	var (
		all     sync.WaitGroup
		trouble error
		once    sync.Once
		slots   = make(chan struct{}, rereaders)
	)
	for id, t := range topics {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if _, err := h.read(ctx, nil, id, t, attach); err != nil && !errors.Is(err, broker.ErrGone) {
				once.Do(func() { trouble = err })
			}
		})
	}
	all.Wait()
	return trouble
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
