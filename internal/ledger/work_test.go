package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
)

// Services. The workers in Go answer all but snake, which is Python's, and share
// mixed with it.
const (
	quick  = "quick"  // answers at once
	slow   = "slow"   // holds a request for up to longest, so that a kill meets running ones
	stuck  = "stuck"  // never answers
	talk   = "talk"   // sends parts of its reply ahead
	same   = "same"   // shares its runs and replies
	again  = "again"  // wants a second attempt
	broken = "broken" // fails
	mixed  = "mixed"
	snake  = "snake"

	longest = 600 * time.Millisecond
	parts   = 3 // of a reply that is sent in parts
)

// work is a worker process: most services send the body back.
func work(redisURL string) error {
	echo := func(longest time.Duration) worker.Handler {
		return func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
			if longest > 0 {
				if err := r.Progress(ctx, map[string]int{"attempt": r.Attempt}); err != nil {
					return worker.Reply{}, err
				}
				select {
				case <-ctx.Done():
					return worker.Reply{}, context.Cause(ctx)
				case <-time.After(rand.N(longest)):
				}
			}
			return worker.Reply{ContentType: r.ContentType, Body: r.Body}, nil
		}
	}
	w := worker.New(redisURL, worker.Logger(slog.New(slog.DiscardHandler)))
	w.Handle(quick, echo(0))
	w.Handle(mixed, echo(0))
	w.Handle(slow, echo(longest))
	w.Handle(stuck, func(ctx context.Context, _ *worker.Request) (worker.Reply, error) {
		<-ctx.Done()
		return worker.Reply{}, context.Cause(ctx)
	})
	w.Handle(same, echo(0))
	w.Handle(talk, func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
		for n := range parts {
			if err := r.Partial(ctx, "text/plain", fmt.Appendf(nil, "%d.%d", r.Attempt, n)); err != nil {
				return worker.Reply{}, err
			}
		}
		return echo(0)(ctx, r)
	})
	w.Handle(again, func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
		if r.Attempt == 1 {
			return worker.Reply{}, worker.Retry(errors.New("not yet"), 50*time.Millisecond)
		}
		return echo(0)(ctx, r)
	})
	w.Handle(broken, func(context.Context, *worker.Request) (worker.Reply, error) {
		return worker.Reply{}, worker.Fail("broken", "as ever")
	})
	return w.Run(context.Background())
}
