package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Behind Sentinels the master is found, and the one that takes over when it dies. What
// the replica had, and nothing else was promised, is there.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	first := redistest.Start(t, "--appendonly", "yes")
	redistest.Start(t, "--appendonly", "yes", "--replicaof", strings.Replace(strings.TrimPrefix(first.URL, "redis://"), ":", " ", 1))
	soon(t, "the replica follows", func() error {
		info, err := first.Client.Info(t.Context(), "replication").Result()
		if err == nil && !strings.Contains(info, "state=online") {
			err = errors.New(info)
		}
		return err
	})
	url := "redis+sentinel://" + first.Sentinel(t) + "/mymaster"
	b := open(t, &redistest.Redis{URL: url}, func(o *broker.Options) {
		o.Durability = broker.Durability{Mode: broker.Replicated, Replicas: 1, Wait: 2 * time.Second}
	})
	r := submit(t, b, "before")
	b.Close()
	b = open(t, &redistest.Redis{URL: url})
	first.Kill()
	soon(t, "the replica took over, and takes requests", func() error {
		_, _, err := b.Submit(t.Context(), broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", IdempotencyKey: "after"})
		return err
	})
	if got := status(t, b, r.ID); got.Status != broker.Queued {
		t.Errorf("accepted before, and %s now", got.Status)
	}
	if _, err := broker.Open(t.Context(), broker.Options{URL: strings.Replace(url, "mymaster", "another", 1)}); err == nil || !strings.Contains(err.Error(), "by the name") || errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("a master that no Sentinel knows: %v", err)
	}
}

// soon tries until it works.
func soon(t testing.TB, what string, try func() error) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(fmt.Errorf("never: %s: %w", what, err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
