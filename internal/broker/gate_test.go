package broker_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// The clocks of a request go on while it waits at a gate, in line, or for a
// paused service to go on; and its followers go on when one has run out.
func TestClocksWhileWaiting(t *testing.T) {
	for _, where := range []string{"gate", "line", "pause"} {
		t.Run(where, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
				b := open(t, redis, func(o *broker.Options) {
					if where == "line" {
						o.Services["echo"] = broker.ServiceConfig{Concurrency: 1}
					}
				})
				as := ordered("a")
				if where != "gate" {
					as = func(*broker.Submission) {}
				}
				submit(t, b, "first", as)
				first := claim(t, b)
				if where == "pause" {
					if err := b.Pause(t.Context(), "echo"); err != nil {
						t.Fatal(err)
					}
				}
				start := submit(t, b, "start", as, func(s *broker.Submission) { s.StartTimeout = 50 * time.Millisecond })
				total := submit(t, b, "total", as, func(s *broker.Submission) { s.Timeout, s.RunTimeout = 60*time.Millisecond, time.Millisecond })
				submit(t, b, "last", as)
				if r := await(t, b, start.ID, broker.TimedOut); r.Reason != "start" || !r.Started.IsZero() || r.Attempt != 1 {
					t.Errorf("%s, started %v, attempt %d", r.Reason, r.Started, r.Attempt)
				}
				if r := await(t, b, total.ID, broker.TimedOut); r.Reason != "total" { // the run has not begun
					t.Errorf("%s", r.Reason)
				}
				if got := take(t, b, 10); len(got) != 0 {
					t.Errorf("%s was given out", got[0].Body)
				}
				send(t, b, first, broker.WorkerReply{Type: "final"})
				settle(t, b)
				if err := b.Resume(t.Context(), "echo"); err != nil {
					t.Fatal(err)
				}
				if got := serve(t, b); !cmp.Equal(got, []string{"last"}) {
					t.Errorf("ran %v", got)
				}
			})
		})
	}
}

// A worker that dies while others wait behind its request: that one runs again
// first, and where it has used up its attempts, the next goes on.
func TestAWorkerDiesBeforeItsFollowers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Services["echo"] = broker.ServiceConfig{Lease: 20 * time.Millisecond, MaxAttempts: 2}
		})
		first := submit(t, b, "first", ordered("a"))
		submit(t, b, "second", ordered("a"))
		for attempt := 1; attempt <= 2; attempt++ {
			got := take(t, b, 10)
			if len(got) != 1 || string(got[0].Body) != "first" || got[0].Attempt != attempt {
				t.Fatalf("attempt %d: %+v", attempt, got)
			}
			for settled := false; !settled; { // until its lease has lapsed by Redis' clock
				d, err := b.Lapse(t.Context(), 0, "echo")
				if err != nil {
					t.Fatal(err)
				}
				settled = len(d.Facts) > 0
			}
		}
		if r := status(t, b, first.ID); r.Status != broker.Failed || len(r.Attempts) != 1 || r.Attempts[0].Error.Code != "lease_lapsed" {
			t.Errorf("%s after %+v", r.Status, r.Attempts)
		}
		if got := take(t, b, 10); len(got) != 1 || string(got[0].Body) != "second" {
			t.Errorf("then ran %+v", got)
		}
	})
}

// Who waits at a gate can be deleted; nothing of it is left, and nobody is held up.
func TestDeleteAtAGate(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		submit(t, b, "first", ordered("a"))
		gone := submit(t, b, "gone", ordered("a"))
		submit(t, b, "last", ordered("a"))
		if err := b.Delete(t.Context(), gone.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Status(t.Context(), gone.ID); !errors.Is(err, broker.ErrGone) {
			t.Errorf("after the delete: %v", err)
		}
		if got := serve(t, b); !cmp.Equal(got, []string{"first", "last"}) {
			t.Errorf("ran %v", got)
		}
	})
}

// An idempotency key counts together with the ordering key, also for a request
// that waits.
func TestIdempotencyAtAGate(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Partitions = 5 })
		both := func(order string) broker.Submission {
			return broker.Submission{Tenant: "acme", Service: "echo", Body: []byte(order), OrderingKey: order, IdempotencyKey: "k"}
		}
		submit(t, b, "first", flow("acme", ""), ordered("a"))
		r, replayed, err := b.Submit(t.Context(), both("a"))
		if err != nil || replayed || r.Status != broker.Queued {
			t.Fatalf("%s, replayed %v, %v", r.Status, replayed, err)
		}
		if again, replayed, err := b.Submit(t.Context(), both("a")); err != nil || !replayed || again.ID != r.ID {
			t.Errorf("again: %v, replayed %v, %v", again.ID, replayed, err)
		}
		if other, replayed, err := b.Submit(t.Context(), both("b")); err != nil || replayed || other.ID == r.ID {
			t.Errorf("with another ordering key: %v, replayed %v, %v", other.ID, replayed, err)
		}
		changed := both("a")
		changed.Body = []byte("changed")
		if _, _, err := b.Submit(t.Context(), changed); !errors.Is(err, broker.ErrIdempotencyMismatch) {
			t.Errorf("with another body: %v", err)
		}
	})
}

// How many of a key run at once may be configured anew while some wait: nobody is
// left behind, whichever way it went.
func TestKeyConcurrencyIsChanged(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		with := func(n int) *broker.Broker {
			return open(t, redis, func(o *broker.Options) { o.Services["echo"] = broker.ServiceConfig{KeyConcurrency: n} })
		}
		one, three := with(1), with(3)
		key := func(s *broker.Submission) { s.ConcurrencyKey = "k" }
		for _, order := range [][]*broker.Broker{
			{three, three, three, one, one, one},
			{one, three, three, three, three},
			{one, one, one, three, three},
			{three, one, three, one, one},
		} {
			for i, b := range order {
				submit(t, b, fmt.Sprint(i), key)
			}
			if ran := serve(t, three); len(ran) != len(order) {
				t.Errorf("%d of %d ran: %v", len(ran), len(order), ran)
				return
			}
		}
	})
}

// Those who wait count as queued, whatever they wait for.
func TestQueueIsFullOfThoseWhoWait(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Services["echo"] = broker.ServiceConfig{MaxQueued: 4} })
		submit(t, b, "at the gate", ordered("a"))
		submit(t, b, "at the gate", ordered("a"))
		submit(t, b, "delayed", func(s *broker.Submission) { s.Delay = time.Hour })
		if err := b.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		submit(t, b, "paused")
		if _, _, err := b.Submit(t.Context(), broker.Submission{Tenant: "acme", Service: "echo"}); !errors.Is(err, broker.ErrQueueFull) {
			t.Errorf("the fifth: %v", err)
		}
	})
}

// Partitions share what may be queued, but not of a service that lives in one of them.
func TestQueueOfABoundedServiceIsWhole(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Partitions = 4
			o.Services["echo"] = broker.ServiceConfig{MaxQueued: 6, Concurrency: 1}
		})
		for range 6 {
			submit(t, b, "x")
		}
		if _, _, err := b.Submit(t.Context(), broker.Submission{Tenant: "acme", Service: "echo"}); !errors.Is(err, broker.ErrQueueFull) {
			t.Errorf("the seventh: %v", err)
		}
	})
}

// Where those who wait stand, and when asking again is worth while.
func TestPlaceOfThoseWhoWait(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for range 50 {
			submit(t, b, "tomorrow", func(s *broker.Submission) { s.Delay = 24 * time.Hour })
		}
		submit(t, b, "0", ordered("a"))
		claim(t, b)
		for want := 1; want <= 3; want++ {
			r := status(t, b, submit(t, b, fmt.Sprint(want), ordered("a")).ID)
			if at, _, ok := b.Position(t.Context(), r); !ok || at != want {
				t.Errorf("number %d at its gate is told place %d", want, at)
			}
		}
		later := status(t, b, submit(t, b, "later", func(s *broker.Submission) { s.Delay = 40 * time.Second }).ID)
		if s := b.RetryAfter(t.Context(), later); s < 35 || s > 41 {
			t.Errorf("Retry-After of what is scheduled in 40 s: %d", s)
		}
		if err := b.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		held := status(t, b, submit(t, b, "held").ID)
		if s := b.RetryAfter(t.Context(), held); s < 10 {
			t.Errorf("Retry-After at a paused service: %d", s)
		}
		if _, start, _ := b.Position(t.Context(), held); !start.IsZero() {
			t.Errorf("at a paused service it is to start at %v", start)
		}
		q, err := b.Queue(t.Context(), "echo")
		if err != nil || q.OldestAge > time.Minute {
			t.Errorf("%+v, %v", q, err)
		}
	})
}
