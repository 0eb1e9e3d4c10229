package faults_test

import (
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	watched = "/readyz is 503 and says why ≤ 31 s later, by no new connection; new requests 503 not-durable with Retry-After, none run of them; what was accepted goes on; all as before ≤ 5 s after it is set right"

	noticed = 31 * time.Second // that Redis is set otherwise: gateways look every 30 s
)

// changed has somebody set Redis to sync less, under the eyes of gateways that promise
// more and have no reason to look.
//
// Planted: a look every hour.
func changed(r *round) {
	h := open(r, redistest.Start(r, "--appendonly", "yes", "--appendfsync", "always"), func(c *config.Config) { c.Durability = "fsync" })
	set := func(how string) {
		if err := h.redis.Client.ConfigSet(h.Context(), "appendfsync", how).Err(); err != nil {
			h.Fatal(err)
		}
	}
	<-time.After(2 * time.Second) // the connections of the start are looked at by then
	set("everysec")
	begun := time.Now()
	accepted := h.submit(h.gates[0], "echo", "before anybody looked")
	var all sync.WaitGroup
	for _, g := range h.gates {
		all.Go(func() {
			for a := (answer{}); a.code != http.StatusServiceUnavailable || !strings.Contains(a.body, "appendfsync of Redis is everysec"); a = h.get(g, "/readyz") {
				if time.Since(begun) > 2*noticed {
					h.Errorf("nobody noticed: /readyz is %d %s", a.code, a.body)
					return
				}
				<-time.After(50 * time.Millisecond) // until the next look
			}
		})
	}
	all.Wait()
	r.within("noticed by both after", time.Since(begun), noticed)
	for _, g := range h.gates {
		a, err := call(h.Context(), "POST", g.url+"/v1/services/echo/requests", "too little")
		if err != nil || a.code != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "not-durable") {
			h.Errorf("submit: %d %s, %v, Retry-After %q", a.code, a.body, err, a.header.Get("Retry-After"))
		}
	}
	h.ends(accepted, "succeeded")
	set("always")
	r.within("flowed again after", h.flows(), heal)
	for body, n := range h.runs() {
		if body == "too little" {
			h.Errorf("it was refused, and ran %d times", n)
		}
	}
}
