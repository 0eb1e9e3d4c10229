package simulation_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// intent is an owed callback that a gateway has taken.
type intent struct {
	broker.Intent
	at   string // prefix of the keys of its partition
	busy bool   // the gateway says in Redis what came of it
	kept bool   // and said that it still tells of it
}

// handed are the owed callbacks that a gateway was handed and has not looked at yet.
type handed struct {
	mu  sync.Mutex // guards all
	all []broker.Intent
}

func (h *handed) room() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return 3 - len(h.all)
}

func (h *handed) take(i broker.Intent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, i)
}

// lookAtHanded has a gateway begin with the callbacks that it was handed.
func (g *gate) lookAtHanded() {
	g.handed.mu.Lock()
	defer g.handed.mu.Unlock()
	for _, i := range g.handed.all {
		g.world.did("%s was handed the callback of %s about %s %d", g.name, i.ID, i.Type, i.Number)
		g.intents = append(g.intents, &intent{at: g.world.partitions[i.Partition], Intent: i})
	}
	g.handed.all = nil
}

// owes notes that an event is one of those that its client wants to be told of.
func (rec *record) owes(kind string, number int) {
	letter := kind[:1]
	if rec.told == "" || !strings.Contains(rec.told, letter) {
		return
	}
	if key := fmt.Sprintf("%s %d", kind, number); !rec.owing[key] {
		rec.owing[key] = false
	}
}

// checkIntents holds what is owed in a partition to what happened there: the intent is
// there from the same step on, until the receiver has it.
func (w *world) checkIntents(at string) {
	if !w.calling {
		return
	}
	there := map[string]int{} // "id type number"
	entries, _ := w.redis.Stream(at + "callbacks")
	for _, e := range entries {
		f := pairs(e.Values)
		there[f["id"]+" "+f["type"]+" "+f["number"]]++
	}
	due, _ := w.redis.SortedSet(at + "due")
	for member := range due {
		if later, ok := strings.CutPrefix(member, "callback "); ok {
			there[later[:strings.LastIndex(later, " ")]]++
		}
	}
	sums := map[*record]int{} // by shared run
	for _, rec := range w.records {
		if rec.at != at || rec.forgotten || !rec.listed() {
			continue
		}
		owed := 0
		for key, n := range there {
			if id, what, _ := strings.Cut(key, " "); id == rec.name {
				owed += n
				if _, right := rec.owing[what]; !right {
					w.fail("%s owes a callback about %s, of which nobody wanted to hear, or which was not", rec.called(), what)
				}
			}
		}
		for what, told := range rec.owing {
			if !told && there[rec.name+" "+what] == 0 {
				w.fail("%s owes a callback about %s, and nobody will be told", rec.called(), what)
			}
		}
		if owed != rec.owed {
			w.fail("%s owes %d callbacks, and counts %d", rec.called(), owed, rec.owed)
		}
		if rec.kind == sharer {
			sums[rec.of] += owed
		}
	}
	for run, owed := range sums {
		if !run.forgotten && run.owed != owed {
			w.fail("those who share %s owe %d callbacks, and it counts %d", run.called(), owed, run.owed)
		}
	}
}

// tell has a gateway do something about owed callbacks: take some, or tell of one.
func (w *world) tell() {
	g := w.alive()
	if g == nil || !w.calling {
		return
	}
	g.lookAtHanded()
	if len(g.intents) > 0 && w.draw.IntN(6) == 0 {
		w.keep(g, g.intents[w.draw.IntN(len(g.intents))])
		return
	}
	ready := slices.DeleteFunc(slices.Clone(g.intents), func(i *intent) bool { return i.busy })
	if len(ready) == 0 || w.draw.IntN(3) == 0 {
		w.takeIntents(g, w.partitions[w.draw.IntN(len(w.partitions))])
		return
	}
	i := ready[w.draw.IntN(len(ready))]
	switch n := w.draw.IntN(30); {
	case n == 0: // it can't read what to tell: somebody else is given it after its lease
		w.say("%s leaves the callback about %s %d", g.name, i.Type, i.Number)
		g.intents = slices.DeleteFunc(g.intents, func(other *intent) bool { return other == i })
	case n < 10:
		w.postpone(g, i)
	default:
		w.deliverIntent(g, i)
	}
}

// takeIntents gives a gateway the owed callbacks of a partition that nobody has.
func (w *world) takeIntents(g *gate, at string) bool {
	w.redis.run([]string{"XGROUP", "CREATE", at + "callbacks", "deliverers", "0", "MKSTREAM"}) // as who finds none does
	answer := w.redis.run([]string{"XREADGROUP", "GROUP", "deliverers", g.name, "COUNT", "2", "STREAMS", at + "callbacks", ">"})
	if answer[0] == '-' || string(answer) == nothing {
		return false
	}
	flat := list(answer)[1:] // entry and eight texts each
	for ; len(flat) >= 9; flat = flat[9:] {
		f := pairs(flat[1:9])
		number, _ := strconv.Atoi(f["number"])
		attempt, _ := strconv.Atoi(f["attempt"])
		id, err := correlation.Parse(f["id"])
		if err != nil {
			w.fail("a callback is owed to %q", f["id"])
			return false
		}
		g.intents = append(g.intents, &intent{at: at, Intent: broker.Intent{
			Partition: slices.Index(w.partitions, at), Entry: flat[0], ID: id, Type: f["type"], Number: number, Attempt: attempt,
		}})
		w.did("%s takes the callback of %s about %s %d", g.name, id, f["type"], number)
	}
	w.happened()
	return true
}

// deliverIntent has the receiver hear of it, and Redis of that.
func (w *world) deliverIntent(g *gate, i *intent) {
	if rec := w.named[i.ID.String()]; rec != nil {
		rec.owing[fmt.Sprintf("%s %d", i.Type, i.Number)] = true
	}
	i.busy = true
	w.call(g, fmt.Sprintf("tell of %s %d", i.Type, i.Number), func() func() {
		err := g.broker.Delivered(context.Background(), i.Intent)
		return func() { g.settled(i, err) }
	})
}

// postpone has it told of later.
func (w *world) postpone(g *gate, i *intent) {
	i.busy = true
	delay := time.Duration(w.draw.IntN(1500)) * time.Millisecond
	w.call(g, fmt.Sprintf("tell of %s %d later", i.Type, i.Number), func() func() {
		err := g.broker.Postpone(context.Background(), i.Intent, delay)
		return func() { g.settled(i, err) }
	})
}

// keep has it be this gateway's for longer, though it may be settled meanwhile, or be
// another's by now.
func (w *world) keep(g *gate, i *intent) {
	i.kept = i.busy
	w.call(g, fmt.Sprintf("still tell of %s %d", i.Type, i.Number), func() func() {
		_, err := g.broker.Keep(context.Background(), i.Intent)
		return func() {
			if err != nil {
				w.excuse(err)
			}
		}
	})
}

// settled has a gateway forget an intent, or try again what failed.
func (g *gate) settled(i *intent, err error) {
	if i.busy = false; err != nil {
		g.world.excuse(err)
		return
	}
	g.intents = slices.DeleteFunc(g.intents, func(other *intent) bool { return other == i })
}

// owing is how many callbacks nobody was told of, or Redis does not know that.
func (w *world) owing() (n int) {
	for _, rec := range w.records {
		if !rec.forgotten && rec.listed() {
			n += rec.owed
		}
	}
	return n
}

// tellAll has the gateways tell of all that is owed. What a gateway had that is no more
// is handed out again after its lease; who is deleted meanwhile is forgotten then.
func (w *world) tellAll() {
	began := time.Now()
	limit := began.Add(2 * time.Minute)
	for w.broken == nil && (w.owing() > 0 || w.postponed()) {
		if time.Now().After(limit) {
			w.fail("%d callbacks are owed, and nobody is told", w.owing())
		}
		done := false
		for _, g := range w.gates {
			g.lookAtHanded()
			for _, at := range w.partitions {
				done = w.takeIntents(g, at) || done
			}
			for _, i := range slices.Clone(g.intents) {
				switch {
				case i.busy && !i.kept && w.draw.IntN(2) == 0: // once, or that is all there is to do
					w.keep(g, i)
				case i.busy:
				case w.draw.IntN(4) == 0:
					w.postpone(g, i)
				default:
					w.deliverIntent(g, i)
				}
				done = true
			}
		}
		switch {
		case done || len(w.busy()) > 0 || len(w.calls) > 0 || w.postponed():
			w.flow()
		default: // a gateway that was no more when this began has it: nobody else is there until its lease is over
			w.say("all gateways are away")
			for _, g := range w.gates {
				w.crash(g)
			}
			w.pass(max(time.Minute-time.Since(began), 0))
			for i := range w.gates {
				w.begin(i)
			}
			for found := time.Now().Add(5 * time.Second); time.Now().Before(found) && w.broken == nil; {
				w.flow() // a steward is found, and looks
			}
		}
	}
}

// postponed tells whether an owed callback waits for its time.
func (w *world) postponed() bool {
	for _, at := range w.partitions {
		due, _ := w.redis.SortedSet(at + "due")
		for member := range due {
			if strings.HasPrefix(member, "callback ") {
				return true
			}
		}
	}
	return false
}
