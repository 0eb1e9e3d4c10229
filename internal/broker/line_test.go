package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// regulate lets every partition move all that it may.
func regulate(t testing.TB, b *broker.Broker, service string) {
	t.Helper()
	for p := range b.Partitions() {
		for more := true; more; {
			var err error
			if more, err = b.Regulate(t.Context(), p, service); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// take claims what there is, up to n.
func take(t testing.TB, b *broker.Broker, n int) []broker.Delivery {
	t.Helper()
	got, err := b.Claim(t.Context(), "w1", []string{"echo"}, n, 5*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// serve has one worker with one slot answer everything, and returns the bodies
// in the order in which they ran.
func serve(t testing.TB, b *broker.Broker) (bodies []string) {
	t.Helper()
	for {
		regulate(t, b, "echo")
		got := take(t, b, 1)
		if len(got) == 0 {
			return bodies
		}
		bodies = append(bodies, string(got[0].Body))
		send(t, b, got[0], broker.WorkerReply{Type: "final"})
		settle(t, b)
	}
}

func ordered(key string) func(*broker.Submission) {
	return func(s *broker.Submission) { s.OrderingKey = key }
}

// Requests with one ordering key run one after the other in the order accepted,
// across retries; other keys aren't held up.
func TestOrderingKey(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Partitions = 2 })
		base := redis.Keys(t)
		a1 := submit(t, b, "a1", ordered("a"))
		a2 := submit(t, b, "a2", ordered("a"))
		submit(t, b, "a3", ordered("a"))
		submit(t, b, "b1", ordered("b"))
		got := take(t, b, 10)
		bodies := []string{}
		for _, d := range got {
			bodies = append(bodies, string(d.Body))
		}
		slices.Sort(bodies)
		if !cmp.Equal(bodies, []string{"a1", "b1"}) {
			t.Fatalf("claimed %v, want the first of each key", bodies)
		}
		if s := status(t, b, a2.ID); s.Status != broker.Queued || s.Rank == 0 || !s.Queued.IsZero() {
			t.Errorf("the second of a key: %s, rank %d, on the stream since %v", s.Status, s.Rank, s.Queued)
		}
		for _, d := range got {
			if string(d.Body) == "a1" {
				send(t, b, d, broker.WorkerReply{Type: "retry", Delay: 30 * time.Millisecond})
			} else {
				send(t, b, d, broker.WorkerReply{Type: "final"})
			}
		}
		settle(t, b)
		if more := take(t, b, 10); len(more) != 0 {
			t.Fatalf("%s overtook the first while it waits for its retry", more[0].Body)
		}
		await(t, b, a1.ID, broker.Queued)
		if _, err := b.Cancel(t.Context(), a2.ID); err != nil {
			t.Fatal(err)
		}
		if got := serve(t, b); !cmp.Equal(got, []string{"a1", "a3"}) {
			t.Errorf("ran %v, want a1, a3", got)
		}
		for _, key := range redis.Keys(t) {
			if strings.Contains(key, ":gate:") || strings.Contains(key, ":waiting:") || strings.Contains(key, ":line:") {
				t.Errorf("left behind: %s (base %v)", key, base)
			}
		}
	})
}

func TestConcurrency(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Partitions = 3
			o.Services["echo"] = broker.ServiceConfig{Concurrency: 2, KeyConcurrency: 2}
		})
		for i := range 7 {
			submit(t, b, fmt.Sprint(i))
			regulate(t, b, "echo")
		}
		var ran []string
		for len(ran) < 7 {
			got := take(t, b, 10)
			if len(got) == 0 || len(got) > 2 {
				t.Fatalf("%d at once after %v, want 1 or 2", len(got), ran)
			}
			for _, d := range got {
				ran = append(ran, string(d.Body))
				send(t, b, d, broker.WorkerReply{Type: "final"})
			}
			settle(t, b)
		}
		if !slices.IsSorted(ran) {
			t.Errorf("ran in the order %v", ran)
		}
	})
}

func TestConcurrencyKey(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Services["echo"] = broker.ServiceConfig{KeyConcurrency: 2} })
		for i := range 5 {
			submit(t, b, fmt.Sprint(i), func(s *broker.Submission) { s.ConcurrencyKey = "k" })
		}
		first := take(t, b, 10)
		if len(first) != 2 {
			t.Fatalf("%d of one key at once, want 2", len(first))
		}
		send(t, b, first[1], broker.WorkerReply{Type: "failed"})
		settle(t, b)
		if next := take(t, b, 10); len(next) != 1 || string(next[0].Body) != "2" {
			t.Errorf("then %v, want the third", next)
		}
	})
}

// A tenant with many waiting does not hold up the first of another by more than
// a few; high goes before low, and low does not starve.
func TestFairShare(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		as := func(tenant string, p broker.Priority) func(*broker.Submission) {
			return func(s *broker.Submission) { s.Tenant, s.Priority = tenant, p }
		}
		for i := range 200 {
			submit(t, b, fmt.Sprint("acme ", i), as("acme", ""))
		}
		regulate(t, b, "echo")
		submit(t, b, "other", as("other", ""))
		for i := range 20 {
			submit(t, b, fmt.Sprint("high ", i), as("acme", broker.PriorityHigh))
		}
		submit(t, b, "low", as("acme", broker.PriorityLow))
		ran := serve(t, b)
		if len(ran) != 222 {
			t.Fatalf("%d ran", len(ran))
		}
		place := func(body string) int { return slices.Index(ran, body) }
		if place("other") > 20 {
			t.Errorf("the first of another tenant ran as number %d", place("other"))
		}
		if place("high 19") > 60 || place("low") > 60 || place("low") < place("high 0") {
			t.Errorf("high 0 … 19 at %d … %d, low at %d", place("high 0"), place("high 19"), place("low"))
		}
		if place("acme 0") > place("acme 1") || place("acme 100") > place("acme 199") {
			t.Error("one flow does not keep its order")
		}
	})
}

// Paused, a service takes requests and gives none out, also of those that were
// on the stream; resumed, it goes on in the order accepted.
func TestPause(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		var want []string
		for i := range 300 {
			want = append(want, fmt.Sprintf("%03d", i))
			submit(t, b, want[i])
		}
		running := take(t, b, 1)[0]
		if err := b.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		late := submit(t, b, "late")
		regulate(t, b, "echo")
		if got := take(t, b, 10); len(got) != 0 {
			t.Fatalf("a paused service gave out %s", got[0].Body)
		}
		if b.Paused("echo").IsZero() {
			t.Error("nobody can see that it is paused")
		}
		send(t, b, running, broker.WorkerReply{Type: "final"})
		settle(t, b)
		if got := take(t, b, 10); len(got) != 0 {
			t.Fatalf("a settle gave out %s of a paused service", got[0].Body)
		}
		if s := status(t, b, late.ID); s.Status != broker.Queued {
			t.Errorf("accepted while paused: %s", s.Status)
		}
		if err := b.Resume(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		if got := serve(t, b); !cmp.Equal(got, append(want[1:], "late")) {
			t.Errorf("after the pause ran %v", got)
		}
		if !b.Paused("echo").IsZero() {
			t.Error("still paused")
		}
	})
}

// A delay comes before the other clocks, and can be canceled.
func TestDelay(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		delayed := func(s *broker.Submission) { s.Delay, s.Timeout = 60*time.Millisecond, time.Minute }
		r := submit(t, b, "later", delayed)
		if r.Status != broker.Scheduled {
			t.Errorf("accepted as %s", r.Status)
		}
		got := status(t, b, r.ID)
		if got.Status != broker.Scheduled || got.Release.Sub(got.Created) != 60*time.Millisecond || got.Deadline.Sub(got.Created) != time.Minute+60*time.Millisecond {
			t.Errorf("%s until %v after, deadline %v after", got.Status, got.Release.Sub(got.Created), got.Deadline.Sub(got.Created))
		}
		c := submit(t, b, "never", delayed)
		if _, err := b.Cancel(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		await(t, b, r.ID, broker.Queued)
		if got := serve(t, b); !cmp.Equal(got, []string{"later"}) {
			t.Errorf("ran %v", got)
		}
	})
}

// What led from one attempt to the next is in the record.
func TestAttemptsAreRemembered(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		r := submit(t, b, "x", func(s *broker.Submission) { s.MaxAttempts = 4; s.Backoff = 50 * time.Millisecond })
		for i := range 3 {
			send(t, b, claim(t, b), broker.WorkerReply{Type: "retry", Error: &broker.Error{Code: "busy", Message: fmt.Sprint("try\t", i)}, Delay: time.Millisecond})
			settle(t, b)
		}
		got := status(t, b, r.ID)
		if got.Attempt != 4 || got.MaxAttempts != 4 || len(got.Attempts) != 3 {
			t.Fatalf("attempt %d of %d, %d before", got.Attempt, got.MaxAttempts, len(got.Attempts))
		}
		for i, a := range got.Attempts {
			if a.Number != i+1 || a.Worker != "w1" || a.Error.Code != "busy" || a.Error.Message != fmt.Sprint("try ", i) || a.Started.IsZero() || a.Ended.Before(a.Started) {
				t.Errorf("attempt %d: %+v", i+1, a)
			}
		}
	})
}

// A worker that acknowledged by itself left an entry on the stream that nobody can
// take back: a pause must not wait for it.
func TestPauseBesideAnAcknowledgedEntry(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		submit(t, b, "acknowledged")
		d := claim(t, b)
		if err := redis.Client.XAck(t.Context(), "cc:{0}:queue:echo", "workers", d.Entry).Err(); err != nil {
			t.Fatal(err)
		}
		submit(t, b, "taken back")
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		if err := b.Pause(ctx, "echo"); err != nil {
			t.Fatal(err)
		}
		if n := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val(); n != 1 {
			t.Errorf("%d entries are on the stream", n)
		}
	})
}

// TestLineIsClosedAfterItsLimit: a limit that goes while its requests are on the
// stream leaves no line behind.
func TestLineIsClosedAfterItsLimit(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		if err := b.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		submit(t, b, "1")
		if err := b.Resume(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		regulate(t, b, "echo")
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		settle(t, b) // and no Regulate, since there is no limit
		if redis.Client.Exists(t.Context(), "cc:{0}:line:echo").Val() != 0 {
			t.Error("its line is left behind")
		}
	})
}
