package simulation_test

import (
	"context"
	"time"
)

// halt is what is known of the pauses of a service.
type halt struct {
	calls  map[*gate]int // that are under way
	number int           // of the call that began last
	sure   bool          // all others were over, or given up, when that began: what it said holds
	paused bool
}

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
	w.pause(g, service, paused == (w.draw.IntN(3) == 0))
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
	alone := len(h.calls) == 0 // of a call of which nobody heard, what it sent may still arrive
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
				w.excuse(err)
			} else if alone && number == h.number {
				h.sure, h.paused = true, paused
			}
		}
	})
}

// unheard forgets the calls of a gateway that crashed.
func (w *world) unheard(g *gate) {
	for _, h := range w.halts {
		delete(h.calls, g)
	}
}

// checkPaused holds what a worker was given to what is paused: nothing goes to the stream
// in a partition that has heard of a pause, and once who asked for it knows of it, nothing
// comes from there.
func (w *world) checkPaused(rec *record, worker, entry string) {
	if h := w.halts[rec.service]; h != nil && h.sure && h.paused {
		w.fail("%s was given %s, and %s is paused", worker, rec.called(), rec.service)
	}
	since, at := instant(w.redis.HGet(rec.at+"limits", "paused:"+rec.service)), entryTime(entry)
	if !since.IsZero() && at.After(since) {
		w.fail("%s was given %s, which went to its stream at %s, and that is paused since %s", worker, rec.called(), at, since)
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
