package worker_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// What was claimed together runs together: no handler waits for the one before it.
func TestHandlersOfOneClaim(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		if err := b.Announce(t.Context(), map[string]broker.Announcement{"all": {}}); err != nil {
			t.Fatal(err)
		}
		const n = 8
		var requests []broker.Record
		for range n {
			requests = append(requests, b.submit("all", "x"))
		}
		var here atomic.Int64
		together := make(chan struct{}) // closed once all handlers are here
		stop := b.work(func(w *worker.Worker) {
			w.Handle("all", func(ctx context.Context, _ *worker.Request) (worker.Reply, error) {
				if here.Add(1) == n {
					close(together)
				}
				select {
				case <-together:
				case <-ctx.Done():
				}
				runtime.Goexit() // takes its goroutine with it
				return worker.Reply{}, nil
			})
		}, worker.Concurrency(n))
		defer stop()
		for _, r := range requests {
			if got := b.outcome(r); got.Reason != "worker" || got.Attempt != 1 {
				t.Errorf("%s %s, attempt %d", got.Status, got.Reason, got.Attempt)
			}
		}
	})
}
