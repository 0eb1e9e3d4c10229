package simulation_test

import (
	"context"
	"errors"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// request is what clients know of one unit of work.
type request struct {
	world *world
	name  string // also its tag
	body  string
	key   string // "" for none
	wants broker.Submission
	legs  *broker.Scatter // nil for a request to one service
	batch *batch          // nil for none
	id    correlation.ID
	known bool // a client has its ID
	seen  *broker.Record

	tries, refusals     int
	canceling, deleting bool // somebody asked for it
	records             []*record
}

// call is something that a client asked of a gateway.
type call struct {
	gate  *gate
	label string
	done  bool   // guarded by the world
	check func() // looks at what came of it; guarded by the world
}

// call has a gateway do something for a client. do returns what looks at the result.
func (w *world) call(g *gate, label string, do func() (check func())) {
	w.number++
	c := &call{gate: g, label: label}
	w.calls = append(w.calls, c)
	w.say("a client has %s %s", g.name, label)
	w.running.Go(func() {
		check := do()
		w.mu.Lock()
		defer w.mu.Unlock()
		c.done, c.check = true, check
	})
	w.settle()
}

// finish looks at the calls that are done, oldest first. What a dead gateway would
// have answered, nobody hears.
func (w *world) finish() {
	open := w.calls[:0]
	for _, c := range w.calls {
		w.mu.Lock()
		done, check := c.done, c.check
		w.mu.Unlock()
		switch {
		case c.gate.dead:
		case done && w.broken == nil:
			w.say("%s has done: %s", c.gate.name, c.label)
			check()
		case !done:
			open = append(open, c)
		}
	}
	w.calls = open
}

// alive is one of the gateways that run, or nil.
func (w *world) alive() *gate {
	g := w.gates[w.draw.IntN(len(w.gates))]
	if g.dead {
		return nil
	}
	return g
}

// client has a client do something.
func (w *world) client() {
	g := w.alive()
	if g == nil {
		return
	}
	if w.pausing && w.draw.IntN(6) == 0 {
		w.pauseOrResume(g)
		return
	}
	if len(w.batches) > 0 && w.draw.IntN(8) == 0 {
		if b := w.batches[w.draw.IntN(len(w.batches))]; b.known {
			b.read(g)
			return
		}
	}
	if len(w.requests) == 0 || w.draw.IntN(5) < 2 && len(w.requests) < 12 {
		w.submitNew(g)
		return
	}
	r := w.requests[len(w.requests)-1-min(w.draw.IntN(len(w.requests)), w.draw.IntN(len(w.requests)))]
	n := w.draw.IntN(20)
	switch {
	case n < 4 && r.key != "":
		r.submit(g)
	case !r.known:
		w.submitNew(g)
	case dead(w.named[r.id.String()].status) && w.draw.IntN(3) > 0:
		r.redrive(g)
	case n < 9:
		r.poll(g)
	case n < 13:
		r.wait(g)
	case n < 16:
		r.events(g)
	case n < 19:
		r.cancel(g)
	default:
		r.delete(g)
	}
}

// poll has a client, or a crowd that shares reads, look at how far the request is.
func (r *request) poll(g *gate) {
	read, n, left := g.broker.Status, 1, func() {}
	if drawn := r.world.draw.IntN(6); drawn < 4 && !g.waited && (g.polls == 0 || g.polled == r) { // see wait
		read, g.polled, left = g.hub.Poll, r, func() { g.polls-- }
		if drawn == 0 {
			n = 4
		}
		g.polls += n
	}
	for range n {
		id, floor := r.id, r.seen
		r.world.call(g, "tell of "+r.name, func() func() {
			got, err := read(context.Background(), id)
			return func() {
				left()
				r.told(id, floor, got, err)
			}
		})
	}
}

func (r *request) wait(g *gate) {
	w, id, floor := r.world, r.id, r.seen
	if g.waited || g.polls > 0 { // of two who wait in one process, which one reads for both hangs on the scheduler
		return
	}
	g.waited = true
	patience := time.Duration(1+w.draw.IntN(6000)) * time.Millisecond
	w.call(g, "wait for "+r.name, func() func() {
		begun := time.Now()
		got, err := g.hub.Wait(context.Background(), id, patience, func(broker.Record) bool { return false })
		waited := time.Since(begun) >= patience
		return func() {
			g.waited = false
			if err == nil && !waited && !got.Status.Terminal() {
				w.fail("a wait for %s ended before its time, and it is %s", r.name, got.Status)
			}
			r.told(id, floor, got, err)
		}
	})
}

func (r *request) events(g *gate) {
	w, id, floor := r.world, r.id, r.seen
	w.call(g, "list the events of "+r.name, func() func() {
		got, events, first, err := g.broker.Events(context.Background(), id, 0)
		return func() {
			r.told(id, floor, got, err)
			if err != nil || r.forgotten(id) {
				return
			}
			rec := w.named[id.String()]
			if rec.kind == sharer {
				rec = rec.of
			}
			for i, e := range events {
				if e.Number != first+i || e.Number > len(rec.events) || e.Leg == nil && string(e.Body) != bodyOf(rec.events[e.Number-1]) {
					w.fail("%s: event %d at place %d of those from %d is %q", r.name, e.Number, i, first, e.Body)
				}
			}
		}
	})
}

func (r *request) cancel(g *gate) {
	w, id, floor := r.world, r.id, r.seen
	r.canceling = true
	w.call(g, "cancel "+r.name, func() func() {
		got, err := g.broker.Cancel(context.Background(), id)
		return func() {
			switch {
			case err == nil && got.Status != broker.Canceled, errors.Is(err, broker.ErrTerminal) && !got.Status.Terminal():
				w.fail("%s was canceled, and is %s: %v", r.name, got.Status, err)
			case errors.Is(err, broker.ErrTerminal):
				err = nil
			}
			r.told(id, floor, got, err)
		}
	})
}

func (r *request) delete(g *gate) {
	w, id := r.world, r.id
	r.deleting = true
	w.call(g, "delete "+r.name, func() func() {
		err := g.broker.Delete(context.Background(), id)
		return func() {
			if err == nil {
				if rec := w.named[id.String()]; rec != nil && !rec.forgotten && !rec.old() {
					w.fail("%s was deleted, and is there", r.name)
				}
			} else if !errors.Is(err, broker.ErrGone) {
				w.excuse(err)
			}
		}
	})
}

// told looks at what a client was told of the request, who knew of floor when it asked.
func (r *request) told(id correlation.ID, floor *broker.Record, got broker.Record, err error) {
	w := r.world
	switch {
	case id != r.id: // that one is no more
	case errors.Is(err, broker.ErrGone):
		if rec := w.named[id.String()]; rec != nil && !rec.forgotten && !r.deleting && !rec.old() {
			w.fail("%s is gone for a client, and is there", r.name)
		}
	case err != nil:
		w.excuse(err)
	default:
		r.saw(got, floor)
	}
}

// saw holds what a client saw to what was known when it asked, and to what is.
func (r *request) saw(got broker.Record, floor *broker.Record) {
	w := r.world
	if floor != nil {
		switch {
		case rank(got.Attempt, string(got.Status)) < rank(floor.Attempt, string(floor.Status)), got.Events < floor.Events:
			w.fail("%s was %s in attempt %d with %d events, and later %s in attempt %d with %d", r.name,
				floor.Status, floor.Attempt, floor.Events, got.Status, got.Attempt, got.Events)
		case floor.Status.Terminal() && (got.Status != floor.Status || got.Reason != floor.Reason || !got.Finished.Equal(floor.Finished) || replyOf(got) != replyOf(*floor)):
			w.fail("%s was %+v, and later %+v", r.name, *floor, got)
		}
	}
	if rec := w.named[got.ID.String()]; got.Status.Terminal() && rec != nil && !rec.forgotten {
		if string(got.Status) != rec.status || r.legs == nil && replyOf(got) != rec.reply || got.Reason != rec.reason {
			w.fail("%s is %s with %q for a client, and is %s with %q", r.name, got.Status, replyOf(got), rec.status, rec.reply)
		}
		for i, l := range got.Legs {
			part := rec.parts[i]
			if string(l.Status) != part.status || l.Reason != part.reason || l.Reply != nil && string(l.Reply.Body) != part.reply {
				w.fail("%s is %s for a client, and is %s with %q", part.called(), l.Status, part.status, part.reply)
			}
		}
	}
	if s := r.seen; s == nil || rank(got.Attempt, string(got.Status)) > rank(s.Attempt, string(s.Status)) || got.Events > s.Events {
		r.seen = &got
	}
}

func replyOf(r broker.Record) string {
	if r.Reply == nil {
		return ""
	}
	return string(r.Reply.Body)
}

// forgotten tells whether the record of an ID was there and may not be any more.
func (r *request) forgotten(id correlation.ID) bool {
	rec := r.world.named[id.String()]
	return rec == nil || rec.forgotten || rec.old()
}

// excuse holds errors to what breaks them. Where gateways look after their health, Redis
// may be too slow for them.
func (w *world) excuse(err error) {
	slow := w.pausing && errors.Is(err, broker.ErrUnavailable)
	if !w.faults && !slow {
		w.fail("nothing is broken, and a client hears: %v", err)
	}
}
