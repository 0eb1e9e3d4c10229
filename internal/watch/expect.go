package watch

import (
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// Who hands a request in mostly asks for its reply next, by way of the same process.
// Where the clients of a service do, the submit itself registers this process for
// wake-ups, and the first who waits needs no read: it was there from the start.
//
// That holds while the request is young, see broker.Young: until then it is not
// forgotten, so an outcome that was told is still what a read would bring. Who waits for
// the outcome alone is shown nothing in between; a stream, which is, gives it a moment
// and then reads.

const (
	mostExpected = 4096 // requests; the oldest make room
	mostKept     = 4096 // bytes of a reply that is kept for who may come for it
	usual        = 0.5  // share of the requests of a service that are waited for, from which on all are expected
	habitWeight  = 1.0 / 8
	probeEvery   = 8 // requests of other services: is one of them waited for?
)

// expected is a request that was handed in here, and that somebody may wait for soon.
// The hub's mu guards it.
type expected struct {
	hub   *Hub
	habit *habit
	probe bool // this process is not registered
	id    correlation.ID
	sent  time.Time       // before it was created
	base  *broker.Record  // as it was accepted; nil before
	told  *broker.Outcome // since then
	stale bool            // something else happened to it, or may have
}

// habit is how often those who hand in requests of a service wait for them here.
type habit struct {
	share float64
	n     int // handed in while that was low
}

func (h *habit) learn(waited float64) { h.share += (waited - h.share) * habitWeight }

// Expect returns what a submit to a service should tell of itself, nil for nothing. sure
// says that its reply will be waited for.
func (h *Hub) Expect(service string, sure bool) broker.Await {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := h.habits[service]
	if of == nil {
		of = &habit{}
		h.habits[service] = of
	}
	probe := of.share < usual && !sure
	if probe {
		if of.n++; of.n%probeEvery != 0 {
			return nil
		}
	}
	return &expected{hub: h, habit: of, probe: probe}
}

// Minted is part of broker.Await.
func (e *expected) Minted(id correlation.ID) (attach bool) {
	h := e.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.expected, e.id) // of an earlier try
	e.id, e.sent = id, time.Now()
	h.expected[id] = e
	h.order = append(h.order, e)
	h.forgetOld(e.sent)
	return !e.probe
}

// Stored is part of broker.Await.
func (e *expected) Stored(r broker.Record) {
	e.hub.mu.Lock()
	defer e.hub.mu.Unlock()
	e.base = &r
}

// forgetOld drops what is not young any more. It is called with the hub's mu held.
func (h *Hub) forgetOld(now time.Time) {
	n := 0
	for n < len(h.order) && (len(h.order)-n > mostExpected || now.Sub(h.order[n].sent) >= broker.Young) {
		e := h.order[n]
		if h.expected[e.id] == e {
			delete(h.expected, e.id)
			if e.base != nil || e.probe {
				e.habit.learn(0)
			}
		}
		h.order[n] = nil
		n++
	}
	h.order = h.order[n:]
	if len(h.order) == 0 {
		h.order = nil
	}
}

// unexpect forgets all of them: what was told may have been lost.
func (h *Hub) unexpect() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.expected)
	h.order = nil
}

// happened notes what was told of a request before anybody waited for it. It is called
// with the hub's mu held.
func (e *expected) happened(o *broker.Outcome) {
	if o == nil || e.told != nil || o.Size() > mostKept {
		e.stale, o = true, nil
	}
	e.told = o
}

// meet makes w, the first who waits for an expected request, one that has seen it as it
// was accepted, and been told what was told since. It is called with the hub's mu held.
func (h *Hub) meet(w *Watch) {
	e := h.expected[w.id]
	if e == nil {
		return
	}
	delete(h.expected, w.id)
	e.habit.learn(1)
	if e.base == nil || e.stale || len(w.topic.watches) > 1 || time.Since(e.sent) >= broker.Young {
		return
	}
	t := w.topic
	t.base, t.seen, t.unread = e.base, e.base.Sight(), true
	t.end(e.told)
	if e.told != nil && t.told == nil {
		t.base, t.seen, t.unread = nil, broker.Sight{}, false
		return
	}
	w.seen = true
}

// accepted is the request as it was accepted here, where w needs no read to wait for
// its outcome.
func (w *Watch) accepted() (broker.Record, bool) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	t := w.topic
	if !w.seen || !t.unread || t.base == nil || t.told != nil {
		return broker.Record{}, false
	}
	return *t.base, true
}

// Rest waits, for a moment, for the outcome of a request that was accepted here just
// now: so it need not be read first. It returns at once for any other. Follow it by
// Attach.
func (w *Watch) Rest(done <-chan struct{}, moment time.Duration) {
	if _, ok := w.accepted(); !ok {
		return
	}
	t := time.NewTimer(moment)
	defer t.Stop()
	select {
	case <-w.Again():
	case <-t.C:
	case <-done:
	case <-w.hub.drain:
	}
}
