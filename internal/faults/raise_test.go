package faults_test

import (
	"slices"
	"time"

	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	raisedTo  = 16
	knownSoon = 10 * time.Second // for workers and gateways to know of partitions that are new
)

// raised adds partitions under load, as a gateway does that starts with more in its
// configuration, and then brings up the same with fewer.
//
// Planted: workers that read the first partition alone.
func raised(r *round) {
	h := open(r, redistest.Start(r, "--appendonly", "yes", "--appendfsync", "always"))
	l := h.load()
	<-time.After(500 * time.Millisecond) // under load, of one partition
	l.mu.Lock()
	old := make([]string, 0, len(l.accepted))
	for id := range l.accepted {
		old = append(old, id)
	}
	l.mu.Unlock()
	h.start(func(c *config.Config) { c.Partitions = raisedTo })
	r.within("all partitions answer after", h.flowsEverywhere(raisedTo), knownSoon)
	h.start(func(c *config.Config) { c.Partitions = 1 }) // not lowered: it takes part in all
	if *full {
		<-time.After(12 * time.Second) // until keys are at home among all of them, under load
	}
	slices.Sort(old)
	for _, id := range old {
		for _, g := range h.gates {
			if a := h.get(g, "/v1/requests/"+id); a.code != 200 {
				r.Errorf("an ID of before: %d %s", a.code, a.body)
			}
		}
	}
	r.finds("%d IDs of before resolve", len(old))
	l.audit()
}
