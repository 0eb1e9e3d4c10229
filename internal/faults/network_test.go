package faults_test

import (
	"time"

	"github.com/coatcheck/coatcheck/internal/redistest"
)

// under has load before, during and after a fault of the network; broken breaks it
// and returns when it has healed.
func under(r *round, broken func(*house)) {
	h := open(r, redistest.Start(r, "--appendonly", "yes", "--appendfsync", "always"))
	l := h.load()
	<-time.After(500 * time.Millisecond) // under load
	begun, before := time.Now(), h.lines()
	broken(h)
	r.within("flowed again after", h.flows(), heal)
	h.quiet(begun, before)
	<-time.After(500 * time.Millisecond) // under load, healed
	l.audit()
}

// blackHole lets nothing pass for a time, between nobody and Redis.
//
// Planted: an unknown outcome of a submit told as a refusal (what was refused ran).
func blackHole(lasts time.Duration) func(*round) {
	return func(r *round) {
		under(r, func(h *house) {
			h.on((*redistest.Proxy).Hold)
			<-time.After(lasts)
			h.on((*redistest.Proxy).Heal)
		})
	}
}

// reset ends all connections, again and again.
//
// Planted: workers that claim no more after an error (no work flowed).
func reset(r *round) {
	under(r, func(h *house) {
		for range of(50, 10) {
			h.on((*redistest.Proxy).Reset)
			<-time.After(r.pause(200 * time.Millisecond))
		}
	})
}

// halfOpen has Redis forget all connections without the others being told: new ones
// work at once, so that is when it has healed.
//
// Planted: connections that rest are not closed when one of them did not answer, in
// suspects.go (flowed again after 5.5 s).
func halfOpen(r *round) {
	under(r, func(h *house) {
		for range of(2, 0) {
			h.on((*redistest.Proxy).Forget)
			r.within("flowed again after", h.flows(), heal)
			<-time.After(time.Second) // under load, with new connections
		}
		h.on((*redistest.Proxy).Forget)
	})
}

// trickle has a network that is there, and of no use.
//
// Planted: as for reset.
func trickle(r *round) {
	under(r, func(h *house) {
		h.on(func(p *redistest.Proxy) { p.Trickle(time.Second) })
		<-time.After(15 * time.Second)
		h.on((*redistest.Proxy).Heal)
	})
}

// cut breaks connections off in the middle of an answer.
//
// Planted: as for reset.
func cut(r *round) {
	under(r, func(h *house) {
		h.on(func(p *redistest.Proxy) { p.Cut(func() int { return 1 + r.draw(1500) }) })
		<-time.After(time.Duration(of(8000, 1500)) * time.Millisecond)
		h.on((*redistest.Proxy).Heal)
	})
}
