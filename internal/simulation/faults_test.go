package simulation_test

import (
	"context"
	"fmt"
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
	p, service := w.draw.IntN(len(w.partitions)), serviceNames[w.draw.IntN(len(serviceNames))]
	verbs := []struct {
		name string
		do   func(context.Context) error
	}{
		{"settle", func(ctx context.Context) error { _, _, err := g.broker.Settle(ctx, p); return err }},
		{"decide", func(ctx context.Context) error { _, err := g.broker.Decide(ctx, p); return err }},
		{"lapse", func(ctx context.Context) error { _, err := g.broker.Lapse(ctx, p, service); return err }},
		{"sweep", func(ctx context.Context) error { _, _, err := g.broker.Sweep(ctx, p, service, ""); return err }},
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
		tells := func(o *gate) bool { return !o.dead && len(o.intents) > 0 }
		if i := slices.IndexFunc(w.gates, tells); i >= 0 {
			g = w.gates[i] // others have to tell what it was about to
		}
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

// heal ends all faults, and sees that everything has its end then: by the hands of
// workers who do all that there is, or by its clocks.
func (w *world) heal() {
	diligent := w.draw.IntN(8) > 0
	w.say("everything heals; the workers do what there is: %v", diligent)
	for _, g := range w.gates {
		if g.frozen = false; g.dead {
			w.begin(g.number)
		}
	}
	w.resumeAll()
	unfinished := func() bool { return w.broken == nil && (w.open() > 0 || len(w.calls) > 0 || w.owing() > 0) }
	for again := true; again; again = unfinished() {
		for unfinished() {
			w.conclude(diligent)
			w.tellAll() // meanwhile what was sent long ago may be accepted
		}
		for limit := time.Now().Add(services["slow"].Timeout); w.broken == nil && !unfinished() && time.Now().Before(limit); {
			w.flow() // who was answered is taken out of its group, or that is due; the same here
		}
	}
	w.steps++
	for _, r := range w.requests {
		if w.broken == nil && r.refusals == r.tries && len(r.records) > 0 {
			w.fail("%s was refused, and yet accepted", r.name)
		}
	}
}

// conclude lets everything that is open come to its end. The steward is found within two
// seconds, and then all is over ten seconds after the latest deadline at most.
func (w *world) conclude(diligent bool) {
	limit := time.Now()
	for _, rec := range w.records {
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
		if !diligent || !w.labor() {
			w.flow()
		}
	}
}

// labor has the workers answer what they have, or take what there is.
func (w *world) labor() bool {
	k := w.workers[0]
	if len(k.held) == 0 {
		return len(w.busy()) == 0 && w.claim(k)
	}
	d := k.held[0]
	k.held = k.held[1:]
	w.number++
	w.send(&reply{delivery: d, kind: "final", body: fmt.Sprintf("reply %d", w.number)})
	return true
}

// forgotten sees that nothing is left behind of requests that are forgotten.
func (w *world) forgotten() {
	w.redis.FastForward(config.Retention + 3*time.Minute) // a deleted one is remembered for one, a batch for longer
	for _, key := range w.redis.Keys() {
		_, kind, name := parse(key)
		switch kind {
		case "request", "reply", "events", "idempotency", "content", "gate", "waiting", "line", "due", "clocks", "batch", "open", "outcomes":
			w.fail("all is forgotten, and there is %s of %s", kind, name)
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
	for _, rec := range w.records {
		if !rec.forgotten && !rec.ended() {
			n++
		}
	}
	return n
}

// unfinished says who has no end.
func (w *world) unfinished() {
	for _, rec := range w.records {
		if !rec.forgotten && !rec.ended() {
			w.fail("%s is %s ten seconds after all deadlines", rec.called(), rec.status)
		}
	}
	for _, c := range w.calls {
		w.fail("%s never ended: %s", c.gate.name, c.label)
	}
}
