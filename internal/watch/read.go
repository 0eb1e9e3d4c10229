package watch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

const (
	attach     = -1               // asks for the record alone, and registers this process
	readWithin = 10 * time.Second // above the broker's own limits, so that theirs are met first
)

// Answer is what a read of a request found, as of one instant.
type Answer struct {
	Record broker.Record
	Events []broker.Event // those after the number that was asked for, up to a page
	First  int            // number of the oldest event that is kept, 0 for none

	shared *shared
}

// shared is made of an answer once, by whoever comes first.
type shared struct {
	once sync.Once
	made []byte
	err  error
}

// Share returns what make returns, or returned to another who was answered by the
// same read. They must all make the same of it, and not change it.
func (a Answer) Share(make func() ([]byte, error)) ([]byte, error) {
	a.shared.once.Do(func() { a.shared.made, a.shared.err = make() })
	return a.shared.made, a.shared.err
}

// flight is one read on behalf of all who asked before it left.
type flight struct {
	joined map[*Watch]struct{} // guarded by the hub
	done   chan struct{}       // closed by fly, once answer and err are set
	told   *Answer             // what had been told when it left; guarded by the hub
	answer Answer
	err    error
}

// Attach reads the record and registers this process for wake-ups, in one step.
// Errors are those of broker.Attach and ctx.
func (w *Watch) Attach(ctx context.Context) (broker.Record, error) {
	if a, ok := w.told(attach); ok {
		return a.Record, nil
	}
	a, err := w.hub.read(ctx, w, w.id, w.topic, attach)
	if err == nil {
		w.hub.mu.Lock()
		w.seen = true
		w.hub.mu.Unlock()
	}
	return a.Record, err
}

// Events reads the record together with its events numbered above after. It
// does not register: Attach first.
func (w *Watch) Events(ctx context.Context, after int) (Answer, error) {
	if a, ok := w.told(after); ok {
		return a, nil
	}
	return w.hub.read(ctx, w, w.id, w.topic, after)
}

// read shares a read with everybody who asks the same. It may join a read that
// is still waiting for its turn, never one that is under way: that one may have
// looked before the change that the caller was woken for.
func (h *Hub) read(ctx context.Context, w *Watch, id correlation.ID, t *topic, after int) (Answer, error) {
	h.mu.Lock()
	if t.turn == nil {
		t.turn = make(chan struct{}, 1)
	}
	f := t.next[after]
	first := f == nil
	if first {
		f = &flight{joined: map[*Watch]struct{}{}, done: make(chan struct{}), answer: Answer{shared: &shared{}}}
		if t.next == nil {
			t.next = map[int]*flight{}
		}
		t.next[after] = f
	}
	if w != nil {
		f.joined[w] = struct{}{}
	}
	h.mu.Unlock()
	switch {
	case first && ctx.Done() == nil: // it stays until there is an answer
		h.fly(f, id, t, after)
	case first:
		go h.fly(f, id, t, after)
	}
	select {
	case <-f.done:
		return f.answer, f.err
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("read a request: %w: %w", broker.ErrUnavailable, ctx.Err())
	}
}

// fly waits for its turn and reads. It belongs to no caller that may leave, who would
// take the answer from the others.
func (h *Hub) fly(f *flight, id correlation.ID, t *topic, after int) {
	t.turn <- struct{}{}
	h.mu.Lock()
	f.told = t.told
	if delete(t.next, after); len(t.next) == 0 {
		t.next = nil // most of the time there is none, of many topics
	}
	h.mu.Unlock()
	ctx, stop := context.WithTimeout(context.Background(), readWithin)
	defer stop()
	a := &f.answer
	if after == attach {
		a.Record, f.err = h.broker.Attach(ctx, id)
	} else {
		a.Record, a.Events, a.First, f.err = h.broker.Events(ctx, id, after)
	}
	h.learn(f, t)
	<-t.turn
	close(f.done)
}

// learn wakes those who don't know yet what a read found: a hint may be lost,
// and a claim sends none.
func (h *Hub) learn(f *flight, t *topic) {
	found := f.answer.Record.Sight()
	switch {
	case errors.Is(f.err, broker.ErrGone):
		found = broker.Gone
	case f.err != nil:
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.told != nil && !over(found) {
		if t.told != f.told { // it looked before
			return
		}
		t.told = nil // a failover lost the outcome
	}
	news := t.seen != found && t.seen != (broker.Sight{})
	t.seen, t.base, t.unread = found, nil, false
	if !over(found) {
		base := f.answer.Record // not what came with it
		t.base = &base
	}
	if news {
		t.signal(f.joined)
	}
}
