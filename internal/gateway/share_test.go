package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// answer runs a worker of a service with so many slots until the test ends, and
// tells each body to seen as it is claimed.
func (h house) answer(redis, service string, slots int, seen func(string), takes time.Duration) {
	ctx, stop := context.WithCancel(context.Background())
	w := worker.New(redis, worker.Logger(slog.New(slog.DiscardHandler)), worker.Concurrency(slots), worker.Grace(100*time.Millisecond))
	w.Handle(service, func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
		seen(string(r.Body))
		if takes > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(takes):
			}
		}
		return worker.Reply{}, nil
	})
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	h.t.Cleanup(func() { stop(); running.Wait() })
}

// flood submits n requests, 32 at a time.
func (h house) flood(service, key string, n int) {
	h.t.Helper()
	c := client.New(h.url, client.APIKey(key))
	next := atomic.Int64{}
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if _, err := c.Submit(h.t.Context(), service, client.Request{Body: fmt.Appendf(nil, "%s %d", key, i)}); err != nil {
					h.t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// A tenant with 10,000 waiting does not hold up the first of another: over HTTP,
// with API keys, on a real Redis, and whatever the worker's slots are.
func TestFairOverHTTP(t *testing.T) {
	redis := redistest.Start(t)
	h := start(t, redis.URL, withKeys)
	redis.Client.HSet(t.Context(), "cc:services", "slow", "{}")
	for h.do("GET", "/v1/services/slow", "", "Authorization", "Bearer key-a").code != 200 {
	}
	h.flood("slow", "key-a", 10_000)
	began := make(chan struct{})
	var ran, behind, before atomic.Int64
	var first, done sync.Once
	other := make(chan struct{})
	h.answer(redis.URL, "slow", 4, func(body string) {
		n := ran.Add(1)
		if n == 200 { // it runs
			first.Do(func() { close(began) })
		}
		if body == "key-b 1" {
			behind.Store(n - before.Load())
			done.Do(func() { close(other) })
		}
	}, 2*time.Millisecond)
	<-began
	before.Store(ran.Load())
	h.flood("slow", "key-b", 1)
	select {
	case <-other:
	case <-time.After(30 * time.Second):
		t.Fatalf("the first of another tenant does not run; %d ran", ran.Load())
	}
	t.Logf("%d ran between the submit of the first of another tenant and its start, of 10,000 that wait", behind.Load())
	if behind.Load() > 150 {
		t.Errorf("the first of another tenant ran behind %d", behind.Load())
	}
}

// BenchmarkFairness tells what it costs to keep tenants apart: what a service does with
// API keys, as a part of what it does without. A limit must not starve the workers.
func BenchmarkFairness(b *testing.B) {
	rate := func(slots, n int, takes time.Duration, change ...func(*config.Config)) float64 {
		redis := redistest.Start(b)
		h := start(b, redis.URL, change...)
		redis.Client.HSet(b.Context(), "cc:services", "quick", "{}")
		for h.do("GET", "/v1/services/quick", "", "Authorization", "Bearer key-a").code != 200 {
		}
		h.flood("quick", "key-a", n)
		var ran atomic.Int64
		all := make(chan struct{})
		began := time.Now()
		h.answer(redis.URL, "quick", slots, func(string) {
			if ran.Add(1) == int64(n) {
				close(all)
			}
		}, takes)
		select {
		case <-all:
		case <-time.After(60 * time.Second):
			b.Fatalf("%d of %d ran", ran.Load(), n)
		}
		return float64(n) / time.Since(began).Seconds()
	}
	for _, c := range []struct {
		slots, n int
		takes    time.Duration
	}{{16, 3000, 0}, {200, 6000, 20 * time.Millisecond}} {
		b.Run(fmt.Sprintf("%d slots, %v each", c.slots, c.takes), func(b *testing.B) {
			var with, without float64
			for b.Loop() {
				with += rate(c.slots, c.n, c.takes, withKeys)
				without += rate(c.slots, c.n, c.takes)
			}
			b.ReportMetric(with/without, "of-rate-without-keys")
		})
	}
}
