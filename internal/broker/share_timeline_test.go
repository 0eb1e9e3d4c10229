package broker_test

import (
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// The timeline of who shares a run is its own, and stays.
func TestShareTimeline(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		first := submit(t, b, "x")
		pass(t, b, first.Created.Add(5*time.Millisecond))
		second := submit(t, b, "x")
		short := submit(t, b, "x", timeout(20*time.Millisecond))
		await(t, b, short.ID, broker.TimedOut)
		send(t, b, claim(t, b), broker.WorkerReply{Type: "retry", Delay: time.Millisecond})
		settle(t, b)
		await(t, b, first.ID, broker.Queued)
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		open := status(t, b, second.ID)
		settle(t, b)
		ended := status(t, b, second.ID)
		if open.Queued.IsZero() || !ended.Queued.Equal(open.Queued) {
			t.Errorf("queued at %s, and %s when it has ended", open.Queued, ended.Queued)
		}
		if r := status(t, b, short.ID); !r.Queued.Equal(short.Created) {
			t.Errorf("who left in the first attempt was made at %s and queued at %s", r.Created, r.Queued)
		}
		if hit := submit(t, b, "x"); hit.Cache != broker.CacheHit || !hit.Queued.IsZero() {
			t.Errorf("a %s was queued at %s", hit.Cache, hit.Queued)
		}
	})
}
