package worker_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A worker whose clock is an hour ahead of Redis' takes what waits for it
// already as seriously as all that comes later: it knows the difference before
// it claims.
func TestFirstClaimKnowsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini, dial := redistest.Pipe(t)
		mini.SetTime(time.Now().Add(-time.Hour))
		b, err := broker.Open(t.Context(), broker.Options{
			URL: "redis://bubble", Dial: dial, Logger: quiet, Services: map[string]broker.ServiceConfig{"echo": {}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if _, _, err := b.Submit(t.Context(), broker.Submission{Tenant: "a", Service: "echo", Timeout: time.Minute}); err != nil {
			t.Fatal(err)
		}
		var once sync.Once // later ones are asked by scripts, which hold up everybody
		mini.Hook(func(_ *server.Peer, command string, _ ...string) bool {
			if command == "TIME" {
				once.Do(func() { time.Sleep(20 * time.Millisecond) }) // a way that takes a while
			}
			return false
		})
		left := make(chan time.Duration, 1)
		w := worker.New("redis://bubble", worker.Dialer(dial), worker.Logger(quiet))
		w.Handle("echo", func(ctx context.Context, _ *worker.Request) (worker.Reply, error) {
			end, _ := ctx.Deadline()
			left <- time.Until(end)
			return worker.Reply{}, ctx.Err()
		})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		if got := <-left; got < 50*time.Second || got > 70*time.Second {
			t.Errorf("the first handler had %v left, want a minute", got)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
