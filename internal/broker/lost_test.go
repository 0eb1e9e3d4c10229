package broker_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// TestLossIsSeenByAll: only one of many puts the configuration back, and it may
// be a worker, which nobody's metrics look at.
func TestLossIsSeenByAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini, dial := redistest.Pipe(t)
		defer mini.Close()
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var logs [3]bytes.Buffer
		var brokers [3]*broker.Broker
		for i := range brokers {
			b, err := broker.Open(t.Context(), broker.Options{URL: "redis://pipe:1", Dial: dial, Logger: slog.New(slog.NewTextHandler(&logs[i], nil))})
			if err != nil {
				t.Fatal(err)
			}
			brokers[i] = b
			all.Go(func() { b.Run(ctx) })
			time.Sleep(100 * time.Millisecond)
		}
		for lost := range int64(3) {
			time.Sleep(30 * time.Second)
			for i, b := range brokers {
				if got := b.Stats().DataLost; got != lost {
					t.Errorf("broker %d counts %d losses of %d", i, got, lost)
				}
			}
			mini.FlushAll()
		}
		stop()
		all.Wait()
		for i, b := range brokers {
			b.Close()
			if n := strings.Count(logs[i].String(), "Redis lost its data"); n != 2 {
				t.Errorf("broker %d said it %d times", i, n)
			}
		}
	})
}
