package broker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A Redis that is full refuses new requests, and nothing else: what was accepted
// ends, is seen and called back, and gateways and workers may start anew. Only
// that makes room again.
func TestFullRedis(t *testing.T) {
	redis := redistest.Start(t)
	b := open(t, redis)
	callback := func(s *broker.Submission) {
		s.Callback = &broker.Callback{URL: "https://example.com/", Events: []string{"succeeded"}}
	}
	replied, retried, canceled := submit(t, b, "replied", callback), submit(t, b, "retried"), submit(t, b, "canceled")
	send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("done")})
	send(t, b, claim(t, b), broker.WorkerReply{Type: "retry", Delay: time.Millisecond})
	if err := redis.Client.ConfigSet(t.Context(), "maxmemory", "1mb").Err(); err != nil { // it holds more by itself
		t.Fatal(err)
	}
	if err := redis.Client.Set(t.Context(), "key", "value", 0).Err(); err == nil {
		t.Fatal("Redis is not full")
	}
	if _, _, err := b.Submit(t.Context(), broker.Submission{Service: "echo", Body: []byte("x")}); !errors.Is(err, broker.ErrMemory) {
		t.Errorf("submit: %v", err)
	}
	next := open(t, redis, func(o *broker.Options) { o.Partitions = 2 })
	if err := next.Announce(t.Context(), map[string]broker.Announcement{"echo": {}, "other": {Lease: time.Minute}}); err != nil {
		t.Errorf("a worker starts: %v", err)
	}
	if held, _, err := next.Hold(t.Context(), 0, time.Second); err != nil || !held {
		t.Errorf("a steward starts: %v, %v", held, err)
	}
	for name, id := range map[string]correlation.ID{"replied": replied.ID, "canceled": canceled.ID} {
		if _, err := next.Attach(t.Context(), id); err != nil {
			t.Errorf("wait for the one %s: %v", name, err)
		}
	}
	settle(t, next)
	if got := status(t, next, replied.ID); got.Status != broker.Succeeded {
		t.Errorf("replied: %s", got.Status)
	}
	if got := status(t, next, retried.ID); got.Status != broker.Queued || got.Attempt != 2 {
		t.Errorf("retried: %s, attempt %d", got.Status, got.Attempt)
	}
	if got, err := next.Cancel(t.Context(), canceled.ID); err != nil || got.Status != broker.Canceled {
		t.Errorf("canceled: %s, %v", got.Status, err)
	}
	if _, err := next.Reissue(t.Context(), 0); err != nil {
		t.Errorf("hand callbacks out again: %v", err)
	}
	owed, err := next.ClaimIntents(t.Context(), 2, time.Second) // one a partition
	if err != nil || len(owed) != 1 {
		t.Fatalf("callbacks: %v, %v", owed, err)
	}
	if err := next.Postpone(t.Context(), owed[0], time.Second); err != nil {
		t.Errorf("postpone a callback: %v", err)
	}
}
