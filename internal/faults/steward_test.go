package faults_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/internal/redistest"
)

const takesOver = "another gateway is steward ≤ 2 s; the one that wakes up undoes nothing; " + recovers

// stopped has the steward stand still beyond its lease, at any point of its upkeep,
// under load and with replies that are judged between two scripts; and lets it wake
// up, and go on where it was, while another is steward.
//
// Planted: a lease without an end in steward.lua (nobody takes over).
func stopped(r *round) {
	h := apart(r, redistest.Start(r), `interceptors: {echo: {max_reply: 1MiB}}`)
	l := h.load()
	begun, before := time.Now(), h.lines()
	var slowest, longest time.Duration
	times := of(12, 1)
	for range times {
		<-time.After(r.pause(500 * time.Millisecond)) // under load
		steward, name := h.steward()
		steward.process.Stop()
		still := time.Now()
		for h.holder() == name && time.Since(still) < 10*takeover {
			<-time.After(5 * time.Millisecond) // until the next look
		}
		slowest = max(slowest, time.Since(still))
		h.flowsBy(h.other(steward))
		<-time.After(r.pause(2 * time.Second)) // the fault itself: it stands still
		steward.process.Continue()
		longest = max(longest, h.flows())
	}
	r.finds("%d times", times)
	r.within("another was steward after", slowest, takeover)
	r.within("flowed again after", longest, heal)
	h.quiet(begun, before)
	l.audit()
	h.clean("echo")
}

// holder is who is steward, "" for nobody.
func (h *house) holder() string {
	name, _ := h.redis.Client.Get(h.Context(), "cc:{0}:steward").Result() // none is an error
	return name
}

// steward waits until a gateway is.
func (h *house) steward() (*gate, string) {
	h.Helper()
	for begun := time.Now(); ; <-time.After(5 * time.Millisecond) {
		name := h.holder()
		for _, g := range h.gates {
			if strings.Contains(name, fmt.Sprintf("-%d-", g.process.PID())) {
				return g, name
			}
		}
		if time.Since(begun) > 10*takeover {
			h.Fatalf("no gateway is steward, but %q", name)
		}
	}
}

func (h *house) other(than *gate) *gate {
	for _, g := range h.gates {
		if g != than {
			return g
		}
	}
	return nil
}
