package broker_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// until waits for Redis' clock.
func until(t testing.TB, b *broker.Broker, at time.Time) {
	t.Helper()
	for {
		now, err := b.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if now.After(at) {
			return
		}
		select { // or no time would pass in a bubble
		case <-t.Context().Done():
		case <-time.After(time.Millisecond):
		}
	}
}

// came has the replies that wait have come at an instant. A busy machine may take any
// time until Redis has one, and then it is too late for a clock that runs out soon.
func came(t testing.TB, redis *redistest.Redis, at time.Time) {
	t.Helper()
	const replies = "cc:{0}:replies"
	entries := redis.Client.XRange(t.Context(), replies, "-", "+").Val()
	redis.Client.Del(t.Context(), replies) // with its last ID
	for i, e := range entries {
		again := xadd(replies)
		again.ID, again.Values = fmt.Sprintf("%d-%d", at.UnixMilli(), i+1), e.Values
		if err := redis.Client.XAdd(t.Context(), again).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if len(entries) == 0 {
		t.Fatal("no reply waits")
	}
}

// taken has a worker have taken a delivery at an instant, and been silent since.
func taken(t testing.TB, redis *redistest.Redis, d broker.Delivery, at time.Time) {
	t.Helper()
	claim := []any{"XCLAIM", "cc:{0}:queue:" + d.Service, "workers", "w1", 0, d.Entry, "TIME", at.UnixMilli(), "JUSTID"}
	if got, err := redis.Client.Do(t.Context(), claim...).StringSlice(); err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
}

// lastEntry is the entry that was claimed last.
func lastEntry(t testing.TB, redis *redistest.Redis) string {
	t.Helper()
	return redis.Client.XInfoGroups(t.Context(), "cc:{0}:queue:echo").Val()[0].LastDeliveredID
}

// Upkeep that comes late looks at a request for an instant that is long over,
// e.g. its start timeout, and finds that another clock ran out since. A reply
// that came between the two counts.
func TestReplyBetweenLookAndDeadline(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		for name, change := range map[string]func(*broker.Submission){
			"total": func(s *broker.Submission) { s.Timeout, s.StartTimeout = 300*time.Millisecond, 100*time.Millisecond },
			"run":   func(s *broker.Submission) { s.RunTimeout, s.StartTimeout = 250*time.Millisecond, 100*time.Millisecond },
		} {
			t.Run(name, func(t *testing.T) {
				b := open(t, redis)
				r := submit(t, b, "x", change)
				d := claim(t, b)
				send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("in time")})
				taken(t, redis, d, r.Created)
				came(t, redis, r.Created.Add(200*time.Millisecond))
				until(t, b, r.Created.Add(400*time.Millisecond))
				if got := decide(t, b); !cmp.Equal(got, []string{"settle"}) {
					t.Errorf("decided %v before the reply was settled", got)
				}
				settle(t, b)
				if got := status(t, b, r.ID); got.Status != broker.Succeeded {
					t.Errorf("%s, want succeeded", got.Status)
				}
			})
		}
	})
}

// The clock that ran out first gives its name, however late that is found out,
// and a claim after the start timeout does not undo it.
func TestFirstClockGivesTheReason(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		short := func(s *broker.Submission) { s.Timeout, s.StartTimeout = 120*time.Millisecond, 40*time.Millisecond }
		unclaimed := submit(t, b, "x", short)
		until(t, b, unclaimed.Deadline)
		if got := await(t, b, unclaimed.ID, broker.TimedOut); got.Reason != "start" {
			t.Errorf("unclaimed: %s", got.Reason)
		}
		tardy := submit(t, b, "y", func(s *broker.Submission) { s.StartTimeout = 40 * time.Millisecond })
		until(t, b, tardy.Created.Add(60*time.Millisecond))
		d := claim(t, b)
		send(t, b, d, broker.WorkerReply{Type: "heartbeat"})
		send(t, b, d, broker.WorkerReply{Type: "final"})
		if got, want := settle(t, b), []string{"late", "late"}; !cmp.Equal(got, want) {
			t.Errorf("claimed after the start timeout: %v, want %v", got, want)
		}
		if got := await(t, b, tardy.ID, broker.TimedOut); got.Reason != "start" {
			t.Errorf("claimed late: %s", got.Reason)
		}
	})
}

// A worker that acknowledges by itself and replies in time loses nothing, even
// where the sweep comes before the settle.
func TestSweepWaitsForReplies(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Services["echo"] = broker.ServiceConfig{Lease: 100 * time.Millisecond}
		})
		r := submit(t, b, "x")
		d := claim(t, b)
		redis.Client.XAck(t.Context(), "cc:{0}:queue:echo", "workers", lastEntry(t, redis))
		sweep := func() (kinds []string) {
			facts, _, err := b.Sweep(t.Context(), 0, "echo", "")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range facts {
				kinds = append(kinds, f.Kind)
			}
			return kinds
		}
		found := redis.Client.Time(t.Context()).Val()
		if got, want := sweep(), []string{"acked"}; !cmp.Equal(got, want) {
			t.Fatalf("swept %v, want %v", got, want)
		}
		send(t, b, d, broker.WorkerReply{Type: "final"})
		came(t, redis, found)
		until(t, b, time.Now().Add(150*time.Millisecond))
		if got := sweep(); got != nil {
			t.Errorf("swept %v before the reply was settled", got)
		}
		settle(t, b)
		if got := status(t, b, r.ID); got.Status != broker.Succeeded {
			t.Errorf("%s, want succeeded", got.Status)
		}
	})
}

// A request keeps the lease that it was accepted with, and lapses after it even
// where the service has a longer one by now.
func TestLeaseOfTheRequestHolds(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		lease := func(d time.Duration) func(*broker.Options) {
			return func(o *broker.Options) { o.Services["echo"] = broker.ServiceConfig{Lease: d} }
		}
		b := open(t, redis, lease(100*time.Millisecond))
		r := submit(t, b, "x")
		claim(t, b)
		b = open(t, redis, lease(time.Hour))
		until(t, b, time.Now().Add(150*time.Millisecond))
		if _, _, err := b.Sweep(t.Context(), 0, "echo", ""); err != nil {
			t.Fatal(err)
		}
		if got := status(t, b, r.ID); got.Status != broker.Queued || got.Attempt != 2 {
			t.Errorf("%s, attempt %d: the lease did not lapse", got.Status, got.Attempt)
		}
	})
}
