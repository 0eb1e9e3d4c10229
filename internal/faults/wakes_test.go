package faults_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	hears = "who waits costs no connection to Redis; every long-poll and stream has its outcome ≤ 6 s after the reply, though no hint reaches its gateway; hints do ≤ 5 s after it heals"

	unhinted    = 6 * time.Second // from a reply to who waits for it, without hints
	connections = 40              // of a gateway to Redis, however many wait there
)

// unheard breaks nothing but the connections on which gateways hear of what happened,
// and has new ones be deaf too, while long-polls and streams wait for one request
// each.
//
// Planted: no reading again every five seconds in watch.go (told only when the call
// ended).
func unheard(r *round) {
	h := open(r, redistest.Start(r), func(c *config.Config) { c.Defaults.Lease = time.Minute })
	all := of(2000, 60)
	let := make(chan struct{})
	h.work(h.redis.URL, func(w *worker.Worker) { w.Handle("held", held(let)) }, worker.Concurrency(all))
	h.announced("held")
	var waiters sync.WaitGroup
	answered := make([]time.Time, all)
	for n := range all {
		body := fmt.Sprintf("held %d, %x", n, *seed)
		s := h.submit(h.gates[n%2], "held", body)
		path := s.Links.Self + "?wait=60s"
		if n%4 < 2 {
			path = s.Links.Events
		}
		waiters.Go(func() {
			a, err := call(h.Context(), "GET", h.gates[n%2].url+path, "")
			answered[n] = time.Now()
			if err != nil || a.code != http.StatusOK || n%4 < 2 && outcomes(a.body) != 1 || n%4 >= 2 && a.status().Status != "succeeded" || !strings.Contains(a.body, body) {
				h.Errorf("a waiter was told %d %s, %v", a.code, a.body, err)
			}
		})
	}
	h.counts(all, "coatcheck_waiters", "coatcheck_streams")
	for _, g := range h.gates {
		if n := g.proxy.Links(); n > connections {
			h.Errorf("a gateway has %d connections to Redis, want %d at most", n, connections)
		}
	}
	for _, g := range h.gates {
		g.proxy.Mute(func(sent []byte) bool { return bytes.Contains(bytes.ToLower(sent), []byte("subscribe")) })
	}
	killed, err := h.redis.Client.ClientKillByFilter(h.Context(), "TYPE", "pubsub").Result()
	if err != nil || killed < 2 {
		h.Fatalf("%d connections were killed, %v", killed, err)
	}
	released := time.Now()
	close(let)
	waiters.Wait()
	r.finds("%d waiters, half of them streams", all)
	r.within("the last was told after", slices.MaxFunc(answered, time.Time.Compare).Sub(released), unhinted)
	h.on((*redistest.Proxy).Heal)
	healed := time.Now()
	for prompt := 0; prompt < 3; {
		if h.flows() < time.Second { // a look without a hint takes three on average
			prompt++
		} else {
			prompt = 0
		}
	}
	r.within("hints came again after", time.Since(healed), heal)
}

// held answers once it is let.
func held(let <-chan struct{}) worker.Handler {
	return func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
		select {
		case <-let:
			return worker.Reply{ContentType: r.ContentType, Body: r.Body}, nil
		case <-ctx.Done():
			return worker.Reply{}, context.Cause(ctx)
		}
	}
}

// counts waits until metrics of all gateways together are so many.
func (h *house) counts(want int, names ...string) {
	h.Helper()
	for begun := time.Now(); ; <-time.After(50 * time.Millisecond) {
		got := 0
		for _, g := range h.gates {
			for line := range strings.Lines(h.get(g, "/metrics").body) {
				for _, name := range names {
					var n float64
					if _, err := fmt.Sscanf(line, name+" %g", &n); err == nil {
						got += int(n)
					}
				}
			}
		}
		if got == want {
			return
		}
		if time.Since(begun) > settled {
			h.Fatalf("%v are %d, want %d", names, got, want)
		}
	}
}
