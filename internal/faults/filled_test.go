package faults_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	fits = "new requests refused at 80 % of maxmemory: replies to accepted ones are outcomes ≤ 5 s all the same; full: 503 with Retry-After, nothing run of it; cancels and timeouts (≤ 10 s late) recorded all the same, no worker loses a request; room again: every reply is an outcome of the first attempt ≤ 5 s; work flows ≤ 5 s"

	memory = 64 << 20          // of Redis
	refuse = memory / 100 * 85 // of it are used at most when new requests are refused
	long   = 4 << 10           // bytes of a reply
	late   = 10 * time.Second  // of a timeout, at most
)

// filled fills Redis: at first with requests until new ones are refused, which leaves
// room for replies, of which a quarter comes then; and then with what somebody else writes until nothing
// fits, not even the reply of a worker, for longer than a lease.
//
// Planted: a decide.lua that Redis refuses where it is full (timeouts were not recorded);
// requests that are taken until nothing fits (no reply did either).
func filled(r *round) {
	patient := time.Duration(of(10, 2)) * time.Second // the lease
	timeout := time.Duration(of(20, 6)) * time.Second // of some
	h := open(r, redistest.Start(r, "--maxmemory", fmt.Sprint(memory)), func(c *config.Config) {
		c.Defaults.Lease = patient
		c.Services = map[string]config.Service{"heap": {}}
	})
	first, let, all := make(chan struct{}), make(chan struct{}), of(2000, 100)
	var begun atomic.Int64
	h.work(h.redis.URL, func(w *worker.Worker) {
		w.Handle("held", func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
			begun.Add(1)
			until := let
			if strings.HasPrefix(string(r.Body), "first") {
				until = first
			}
			reply, err := held(until)(ctx, r)
			reply.Body = append(reply.Body, make([]byte, long)...)
			return reply, err
		})
	}, worker.Concurrency(all))
	h.announced("held")
	flight, bodies := make([]api.Status, all), make([]string, all)
	for n := range flight {
		options := []string{"Coatcheck-Timeout", "10m"}
		if n%20 == 1 {
			options[1] = timeout.String()
		}
		bodies[n] = fmt.Sprintf("held %d, %x", n, *seed)
		if n%4 == 0 {
			bodies[n] = fmt.Sprintf("first %d, %x", n, *seed)
		}
		flight[n] = h.submit(h.gates[n%2], "held", bodies[n], options...)
	}
	for begun.Load() < int64(all) {
		<-time.After(10 * time.Millisecond) // until all are at their worker
	}
	heap := h.heap()
	if used := h.used(); used > refuse {
		h.Errorf("%d bytes were used when new requests were refused, want %d at most", used, refuse)
	}
	refused := func() {
		for _, g := range h.gates {
			h.refused(g, "echo", "too much")
		}
	}
	close(first)
	opened, last := time.Now(), time.Duration(0)
	for n := 0; n < all; n += 4 {
		last = max(last, time.Time(h.ends(flight[n], "succeeded").FinishedAt).Sub(opened))
	}
	r.finds("%d in flight, refused after %d of 256 KiB", all, len(heap))
	r.within("a quarter replied to meanwhile, the last after", last, heal)
	refused()
	empty := h.stuff()
	refused()
	latest, canceled, timedOut := time.Duration(0), 0, 0
	for n, s := range flight {
		switch n % 20 {
		case 1:
			s = h.ends(s, "timed_out")
			latest, timedOut = max(latest, time.Time(s.FinishedAt).Sub(time.Time(s.CreatedAt))-timeout), timedOut+1
		case 2:
			if a, err := call(h.Context(), "POST", h.gates[n%2].url+s.Links.Cancel, ""); err != nil || a.code != http.StatusOK {
				h.Errorf("cancel: %d %s, %v", a.code, a.body, err)
			}
			canceled++
		}
	}
	r.finds("%d canceled and %d timed out meanwhile", canceled, timedOut)
	r.within("the latest of them", latest, late)
	close(let)                        // and nobody can be told
	<-time.After(patient + patient/2) // the fault itself: workers are not heard
	empty()
	roomy := time.Now()
	last = 0
	for n, s := range flight {
		want := api.StatusStatus("succeeded")
		switch n % 20 {
		case 1:
			want = "timed_out"
		case 2:
			want = "canceled"
		}
		got := h.ends(s, want)
		last = max(last, time.Time(got.FinishedAt).Sub(roomy))
		if reply := h.get(h.gates[n%2], s.Links.Reply); got.Attempt != 1 || want == "succeeded" && strings.TrimRight(reply.body, "\x00") != bodies[n] {
			h.Errorf("%s: attempt %d replied %.100q", s.CorrelationID, got.Attempt, reply.body)
		}
	}
	r.within("all outcomes after", last, heal)
	for _, s := range heap {
		for _, how := range [][2]string{{"POST", s.Links.Cancel}, {"DELETE", s.Links.Self}} {
			if a, err := call(h.Context(), how[0], h.gates[0].url+how[1], ""); err != nil || a.code >= 300 {
				h.Errorf("%v: %d %s, %v", how, a.code, a.body, err)
			}
		}
	}
	r.within("flowed again after", h.flows(), heal)
	for body, n := range h.runs() {
		if strings.HasPrefix(body, "too much") {
			h.Errorf("%q was refused, and ran %d times", body, n)
		}
	}
	h.clean("held")
}

// heap submits large requests that nobody answers until one is refused.
func (h *house) heap() (accepted []api.Status) {
	h.Helper()
	body := strings.Repeat("x", 256<<10)
	for n := 0; n < memory>>17; n++ {
		a, err := call(h.Context(), "POST", h.gates[n%2].url+"/v1/services/heap/requests", body)
		switch {
		case err == nil && a.code == http.StatusAccepted:
			accepted = append(accepted, a.status())
		case err == nil && a.code == http.StatusServiceUnavailable && strings.Contains(a.body, "memory-full"):
			return accepted
		default:
			h.Fatalf("submit: %d %s, %v", a.code, a.body, err)
		}
	}
	h.Fatal("everything was accepted")
	return nil
}

// used is how much memory Redis uses.
func (h *house) used() (n int) {
	h.Helper()
	info, err := h.redis.Client.Info(h.Context(), "memory").Result()
	_, rest, found := strings.Cut(info, "used_memory:")
	if _, wrong := fmt.Sscan(rest, &n); err != nil || wrong != nil || !found {
		h.Fatalf("how much memory Redis uses: %v, %v", err, wrong)
	}
	return n
}

// refused wants a submit to be so.
func (h *house) refused(g *gate, service, body string) {
	h.Helper()
	a, err := call(h.Context(), "POST", g.url+"/v1/services/"+service+"/requests", body)
	if err != nil || a.code != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(a.body, "memory-full") {
		h.Errorf("submit: %d %s, %v, Retry-After %q", a.code, a.body, err, a.header.Get("Retry-After"))
	}
}

// ends waits for an outcome, without which there is no point in going on.
func (h *house) ends(s api.Status, want api.StatusStatus) api.Status {
	h.Helper()
	a := h.get(h.gates[0], s.Links.Self+"?wait=60s")
	if a.status().Status != want {
		h.Fatalf("%s: %d %s, want %s", s.CorrelationID, a.code, a.body, want)
	}
	return a.status()
}

// stuff writes into Redis what fits, and what gets free, until it is told to take all
// of it out again.
func (h *house) stuff() (empty func()) {
	h.Helper()
	ctx, stop := context.WithCancel(h.Context())
	written := 0
	fill := func() {
		for size := 256 << 10; size > 0; size /= 8 {
			for h.redis.Client.Set(ctx, fmt.Sprint("junk-", written), strings.Repeat("x", size), 0).Err() == nil {
				written++
			}
		}
	}
	fill()
	var filling sync.WaitGroup
	filling.Go(func() {
		for ctx.Err() == nil {
			fill()
			<-time.After(5 * time.Millisecond) // until it looks again
		}
	})
	return func() {
		stop()
		filling.Wait()
		for n := range written {
			if err := h.redis.Client.Del(h.Context(), fmt.Sprint("junk-", n)).Err(); err != nil {
				h.Error(err)
			}
		}
	}
}
