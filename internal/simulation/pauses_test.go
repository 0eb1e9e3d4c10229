package simulation_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"time"
)

// halt is what is known of the pauses of a service.
type halt struct {
	calls  map[*gate]int // that are under way
	number int           // of the call that began last
	sure   bool          // all others were over, or given up, when that began: what it said holds
	paused bool
	late   time.Time // until when a pause that was given up may still come to Redis, and count
}

// patience is for how long a pause may be under way.
const patience = 3 * time.Second

// holds tells that the service is certainly paused.
func (h *halt) holds() bool { return h != nil && h.sure && h.paused }

// pauseOrResume has somebody do that, twice as often the one that is due.
func (w *world) pauseOrResume(g *gate) {
	service := "echo" // which most requests are for
	if len(g.holds) > 0 {
		service = g.holds[0].Service
	}
	if w.draw.IntN(2) == 0 {
		service = serviceNames[w.draw.IntN(len(serviceNames))]
	}
	paused := w.redis.HGet("cc:paused", service) != ""
	if paused = paused == (w.draw.IntN(3) == 0); w.faults && !w.pulling && w.draw.IntN(2) == 0 { // what is held lasts no longer than a command that is late
		w.overtake(g, service, paused)
	} else {
		w.pause(g, service, paused)
	}
}

func (w *world) pause(g *gate, service string, paused bool) {
	how, do := "resume", g.broker.Resume
	if paused {
		how, do = "pause", g.broker.Pause
	}
	h := w.halts[service]
	if h == nil {
		h = &halt{calls: map[*gate]int{}}
		w.halts[service] = h
	}
	alone := len(h.calls) == 0 && (paused || !time.Now().Before(h.late)) // of a call of which nobody heard, what it sent may still arrive
	h.number++
	h.sure, h.calls[g] = false, h.calls[g]+1
	number := h.number
	w.call(g, how+" "+service, func() func() {
		err := do(context.Background(), service)
		return func() {
			if h.calls[g]--; h.calls[g] == 0 {
				delete(h.calls, g)
			}
			if err != nil {
				h.gaveUp(err)
				w.excuse(err)
			} else if alone && number == h.number {
				h.sure, h.paused = true, paused
			}
		}
	})
}

// gaveUp notes until when the call that err ended may have an effect: whoever waited in vain
// for an answer has none any more.
func (h *halt) gaveUp(err error) {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		h.late = time.Now().Add(patience)
	}
}

// unheard forgets the calls of a gateway that crashed.
func (w *world) unheard(g *gate) {
	for _, h := range w.halts {
		if h.calls[g] > 0 {
			h.gaveUp(nil)
			delete(h.calls, g)
		}
	}
}

// overtake has somebody at g say the contrary of what another gateway is about to tell Redis,
// all at once or a partition, which comes late: its connection breaks, or it waits in vain
// until it gives up.
func (w *world) overtake(g *gate, service string, paused bool) {
	o := w.gates[1-g.number]
	if o.dead || o.frozen || g.frozen {
		return
	}
	flow := func(until func() bool) bool {
		for end := time.Now().Add(2 * patience); w.broken == nil && !until() && time.Now().Before(end); {
			w.flow()
		}
		return w.broken == nil
	}
	all, breaks := w.draw.IntN(3) > 0, w.draw.IntN(2) == 0
	var late *link
	w.pause(o, service, paused)
	if !flow(func() bool {
		for _, l := range w.busy() {
			run, _, c := l.ready()
			if of, pauses := tells(c); run && l.owner == o && of == service && pauses == paused && all == (c.label != "regulate.lua") {
				late = l
			}
		}
		return late != nil || w.halts[service].calls[o] == 0
	}) || late == nil {
		return
	}
	w.say("what %s says of %s is on its way for long", o.name, service)
	if late.hold(true); breaks {
		late.cut(true)
		w.settle()
	}
	if flow(func() bool { return w.halts[service].calls[o] == 0 }) {
		w.pause(g, service, !paused)
		flow(func() bool { return late.over() || w.halts[service].calls[g] == 0 })
	}
	if late.hold(false); w.broken == nil && !late.over() {
		w.run(late)
	}
}

// tells is what a command says of a service, "" where it says nothing.
func tells(c command) (service string, pauses bool) {
	if !slices.Contains([]string{"pause.lua", "resume.lua", "regulate.lua"}, c.label) {
		return "", false
	}
	keys, _ := strconv.Atoi(c.words[2])
	args := c.words[3+keys:]
	change := c.label
	if c.label == "regulate.lua" {
		change = args[2] + ".lua"
	}
	if change == ".lua" {
		return "", false
	}
	return args[1], change == "pause.lua"
}

// checkSaid holds what all share, and a partition, to what was said last where that is sure.
func (w *world) checkSaid(at string) {
	for _, service := range serviceNames {
		h := w.halts[service]
		if h == nil || !h.sure {
			continue
		}
		if said := w.redis.HGet("cc:paused", service) != ""; said != h.paused {
			w.fail("%s is paused: %v, and it was said: %v", service, said, h.paused)
		}
		if h.paused && w.redis.HGet(at+"limits", "paused:"+service) == "" {
			w.fail("%s is paused, and not in %s", service, at)
		}
	}
}

// checkPaused holds what a worker was given to what is paused: nothing goes to the stream
// in a partition that has heard of a pause, and once who asked for it knows of it, nothing
// comes from there.
func (w *world) checkPaused(rec *record, worker, entry string) {
	if w.halts[rec.service].holds() {
		w.fail("%s was given %s, and %s is paused", worker, rec.called(), rec.service)
	}
	since, err := strconv.ParseInt(w.redis.HGet(rec.at+"limits", "paused:"+rec.service), 10, 64)
	if at := entryTime(entry); err == nil && at.UnixMicro() > since {
		w.fail("%s was given %s, which went to its stream at %s, and that is paused since %d", worker, rec.called(), at, since)
	}
}

// resumeAll ends all pauses, once the partitions agree on which there are.
func (w *world) resumeAll() {
	if len(w.halts) == 0 {
		return
	}
	for limit := time.Now().Add(3 * time.Second); w.broken == nil && time.Now().Before(limit); {
		w.flow()
	}
	w.checkAgreed()
	for _, service := range serviceNames {
		if w.halts[service] != nil {
			w.pause(w.gates[0], service, false)
		}
	}
}

// checkAgreed holds all partitions to what they were told.
func (w *world) checkAgreed() {
	for _, service := range serviceNames {
		paused := w.redis.HGet("cc:paused", service) != ""
		for _, at := range w.partitions {
			if here := w.redis.HGet(at+"limits", "paused:"+service) != ""; here != paused {
				w.fail("%s is paused: %v, and in %s: %v", service, paused, at, here)
			}
		}
	}
}
