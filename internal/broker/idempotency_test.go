package broker_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A record outlives its retention while a callback is owed. Its idempotency key
// may mean a newer request by then, and what happens to the old record must not
// unbind it: the same call would be accepted twice.
func TestKeyUsedAgainWhileCallbackIsOwed(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		s := broker.Submission{
			Tenant: "a", Service: "echo", IdempotencyKey: "k", Retention: 30 * time.Millisecond,
			Callback: &broker.Callback{URL: "https://example.com/", Events: []string{"succeeded"}},
		}
		old, _, err := b.Submit(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		settle(t, b)
		for _, key := range redis.Keys(t) { // the binding may be dropped a moment later than the record is over
			if strings.Contains(key, "idempotency:") {
				redis.Client.Persist(t.Context(), key)
			}
		}
		until(t, b, status(t, b, old.ID).Expires.Add(50*time.Millisecond))
		if _, err := b.Status(t.Context(), old.ID); !errors.Is(err, broker.ErrGone) {
			t.Fatalf("after its retention: %v", err)
		}
		s.Retention = time.Hour
		next, replayed, err := b.Submit(t.Context(), s)
		if err != nil || replayed {
			t.Fatalf("after the retention of the first: replayed %v, %v", replayed, err)
		}
		var owed []broker.Intent
		for len(owed) == 0 { // the first call makes the group
			if owed, err = b.ClaimIntents(t.Context(), 1, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Delivered(t.Context(), owed[0]); err != nil {
			t.Fatal(err)
		}
		again, replayed, err := b.Submit(t.Context(), s)
		if err != nil || !replayed || again.ID != next.ID {
			t.Errorf("accepted as %v and as %v (replayed %v, %v)", next.ID, again.ID, replayed, err)
		}
	})
}
