package simulation_test

import (
	"context"
	"slices"
	"testing/synctest"
	"time"
)

// upkeep has a gateway do what only a steward should, whoever that is: two at once do
// no harm.
func (w *world) upkeep() {
	g := w.alive()
	if g == nil {
		return
	}
	verbs := []struct {
		name string
		do   func(context.Context) error
	}{
		{"settle", func(ctx context.Context) error { _, _, err := g.broker.Settle(ctx, 0); return err }},
		{"decide", func(ctx context.Context) error { _, err := g.broker.Decide(ctx, 0); return err }},
		{"lapse", func(ctx context.Context) error { _, err := g.broker.Lapse(ctx, 0, service); return err }},
		{"sweep", func(ctx context.Context) error { _, _, err := g.broker.Sweep(ctx, 0, service, ""); return err }},
	}
	v := verbs[w.draw.IntN(len(verbs))]
	w.call(g, v.name, func() func() {
		err := v.do(context.Background())
		return func() {
			if err != nil {
				w.excuse(err)
			}
		}
	})
}

// settle lets everything go on until it waits for the world.
func (w *world) settle() {
	synctest.Wait()
	w.finish()
}

// fault breaks something.
func (w *world) fault() {
	g := w.gates[w.draw.IntN(len(w.gates))]
	n := w.draw.IntN(10)
	switch {
	case g.dead:
		w.begin(g.number)
	case n < 5: // a connection, before Redis has what was sent, or after
		busy := slices.DeleteFunc(w.busy(), func(l *link) bool { return l.owner != g })
		if len(busy) == 0 {
			return
		}
		l, reaches := busy[w.draw.IntN(len(busy))], w.draw.IntN(2) == 0
		_, _, c := l.ready()
		l.cut(reaches)
		w.say("%s loses a connection, and hears nothing of %s; Redis does: %v", g.name, c.label, reaches)
		w.settle()
	case n < 6:
		w.say("%s loses all connections", g.name)
		w.cut(g)
		w.settle()
	case n < 9:
		g.frozen = !g.frozen
		w.say("%s is cut off: %v", g.name, g.frozen)
	default:
		w.say("%s crashes", g.name)
		w.crash(g)
	}
}

// cut ends all connections of a gateway. What it sent reaches Redis or not.
func (w *world) cut(g *gate) {
	for _, l := range w.busy() {
		if run, _, _ := l.ready(); l.owner == g {
			l.cut(run && w.draw.IntN(2) == 0)
		}
	}
	for _, l := range w.all() { // nothing is under way on the others
		if l.owner == g && !l.over() {
			l.cut(true)
		}
	}
}

// heal ends all faults, and sees that everything has its end then.
func (w *world) heal() {
	w.say("everything heals")
	for _, g := range w.gates {
		if g.frozen = false; g.dead {
			w.begin(g.number)
		}
	}
	// The steward is found within two seconds, and then everything is over ten seconds
	// after the latest deadline at most.
	limit := time.Now()
	for _, rec := range w.named {
		if rec.deadline.After(limit) {
			limit = rec.deadline
		}
	}
	limit = limit.Add(10 * time.Second)
	for w.broken == nil && (w.open() > 0 || len(w.calls) > 0) {
		if time.Now().After(limit) {
			w.unfinished()
			break
		}
		w.flow()
	}
	w.steps++
	for _, r := range w.requests {
		if w.broken == nil && r.refusals == r.tries && len(r.records) > 0 {
			w.fail("%s was refused, and yet accepted", r.name)
		}
	}
}

// flow lets everything that is under way arrive, or time pass where nothing is.
func (w *world) flow() {
	busy := w.busy()
	if len(busy) == 0 {
		w.pass(time.Second)
	} else if run, _, _ := busy[0].ready(); run {
		w.run(busy[0])
	} else {
		w.deliver(busy[0])
	}
}

// open is how many requests have no outcome.
func (w *world) open() (n int) {
	for _, rec := range w.named {
		if !rec.forgotten && !rec.ended() {
			n++
		}
	}
	return n
}

// unfinished says who has no end.
func (w *world) unfinished() {
	for _, r := range w.requests {
		for _, rec := range r.records {
			if !rec.forgotten && !rec.ended() {
				w.fail("%s is %s ten seconds after all deadlines", r.name, rec.status)
			}
		}
	}
	for _, c := range w.calls {
		w.fail("%s never ended: %s", c.gate.name, c.label)
	}
}
