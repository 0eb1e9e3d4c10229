package broker_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func TestMain(m *testing.M) {
	_ = flag.Set("rapid.checks", "30") // histories; `make life` draws more
	// The library notices within a second that a client was closed while its server was away.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// open gives a broker that knows the service "echo".
func open(t testing.TB, r *redistest.Redis, change ...func(*broker.Options)) *broker.Broker {
	t.Helper()
	o := broker.Options{
		URL: r.URL, Dial: r.Dial, Services: map[string]broker.ServiceConfig{"echo": {}},
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&o)
	}
	b, err := broker.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func submit(t testing.TB, b *broker.Broker, body string, change ...func(*broker.Submission)) broker.Record {
	t.Helper()
	s := broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", ContentType: "text/plain", Body: []byte(body)}
	for _, c := range change {
		c(&s)
	}
	r, replayed, err := b.Submit(t.Context(), s)
	if err != nil || replayed {
		t.Fatalf("submit: replayed %v, %v", replayed, err)
	}
	return r
}

func claim(t testing.TB, b *broker.Broker) broker.Delivery {
	t.Helper()
	got, err := b.Claim(t.Context(), "w1", []string{"echo"}, 1, time.Second)
	if err != nil || len(got) != 1 {
		t.Fatalf("claim: %d deliveries, %v", len(got), err)
	}
	return got[0]
}

func send(t testing.TB, b *broker.Broker, d broker.Delivery, r broker.WorkerReply) {
	t.Helper()
	if err := b.Send(t.Context(), d, r); err != nil {
		t.Fatal(err)
	}
}

// settle applies all replies of all partitions and returns what it found.
func settle(t testing.TB, b *broker.Broker) (kinds []string) {
	t.Helper()
	for p := range b.Partitions() {
		for more := true; more; {
			facts, left, err := b.Settle(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range facts {
				kinds = append(kinds, f.Kind)
			}
			more = left
		}
	}
	return kinds
}

func decide(t testing.TB, b *broker.Broker) (kinds []string) {
	t.Helper()
	for p := range b.Partitions() {
		d, err := b.Decide(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if d.Settle {
			kinds = append(kinds, "settle")
		}
		for _, f := range d.Facts {
			kinds = append(kinds, f.Kind)
		}
	}
	return kinds
}

func status(t testing.TB, b *broker.Broker, id correlation.ID) broker.Record {
	t.Helper()
	r, err := b.Status(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// await decides until the request's status is wanted. It polls because what
// moves is Redis' clock.
func await(t testing.TB, b *broker.Broker, id correlation.ID, wanted broker.Status) broker.Record {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	for {
		decide(t, b)
		r := status(t, b, id)
		if r.Status == wanted {
			return r
		}
		select {
		case <-ctx.Done():
			t.Fatalf("still %s, want %s", r.Status, wanted)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestSubmitClaimReply(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for _, body := range []string{"hi", "", "\x00\xff\r\n binary", string(bytes.Repeat([]byte("x"), 300<<10))} {
			r := submit(t, b, body)
			if got := status(t, b, r.ID); got.Status != broker.Queued || got.Attempt != 1 {
				t.Errorf("after submit: %s, attempt %d", got.Status, got.Attempt)
			}
			d := claim(t, b)
			if string(d.Body) != body || d.ContentType != "text/plain" || d.ID != r.ID.String() {
				t.Errorf("delivery differs from submission")
			}
			running := status(t, b, r.ID)
			if running.Status != broker.Running || running.Worker != "w1" || running.Started.Before(running.Queued) {
				t.Errorf("after claim: %s by %q since %v", running.Status, running.Worker, running.Started)
			}
			send(t, b, d, broker.WorkerReply{Type: "progress", ContentType: "application/json", Body: []byte(`{"percent":50}`), Seq: 1})
			send(t, b, d, broker.WorkerReply{Type: "final", ContentType: "text/x", Body: d.Body, StatusCode: 201, Seq: 2})
			if got, want := settle(t, b), []string{"event", "outcome"}; !cmp.Equal(got, want) {
				t.Errorf("settled %v, want %v", got, want)
			}
			done, err := b.Reply(t.Context(), r.ID)
			if err != nil {
				t.Fatal(err)
			}
			if done.Status != broker.Succeeded || done.Events != 2 || done.Reply.StatusCode != 201 || string(done.Reply.Body) != body {
				t.Errorf("after reply: %+v", done)
			}
			_, events, first, err := b.Events(t.Context(), r.ID, 0)
			if err != nil || first != 1 || len(events) != 1 || string(events[0].Body) != `{"percent":50}` || events[0].Number != 1 {
				t.Errorf("events %+v, first %d, %v", events, first, err)
			}
		}
	})
}

func TestIdempotencyKey(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Partitions = 3 })
		s := broker.Submission{Tenant: "a", Service: "echo", Body: []byte("x"), IdempotencyKey: "k"}
		first, _, err := b.Submit(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		again, replayed, err := b.Submit(t.Context(), s)
		if err != nil || !replayed || again.ID != first.ID || !again.Created.Equal(first.Created) {
			t.Errorf("again: %v replayed %v, %v; want %v", again.ID, replayed, err, first.ID)
		}
		other := s
		other.Body = []byte("y")
		if _, _, err := b.Submit(t.Context(), other); !errors.Is(err, broker.ErrIdempotencyMismatch) {
			t.Errorf("other payload: %v", err)
		}
		other = s
		other.Tenant = "b"
		if _, replayed, err := b.Submit(t.Context(), other); err != nil || replayed {
			t.Errorf("other tenant: replayed %v, %v", replayed, err)
		}
	})
}

func TestReplyThatDoesNotCount(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		r := submit(t, b, "x")
		d := claim(t, b)
		forged := d
		forged.Token = r.ID.String() + ".1.0123456789abcdef"
		garbage := d
		garbage.Token = "nonsense"
		strange := broker.WorkerReply{Type: "what", Body: []byte("?")}
		send(t, b, forged, broker.WorkerReply{Type: "final", Body: []byte("forged")})
		send(t, b, garbage, broker.WorkerReply{Type: "final", Body: []byte("garbage")})
		send(t, b, d, strange)
		redis.Client.XAdd(t.Context(), xadd(d.ReplyTo, "no", "fields"))
		send(t, b, d, broker.WorkerReply{Type: "progress", Seq: 1, Body: []byte("1")})
		send(t, b, d, broker.WorkerReply{Type: "progress", Seq: 1, Body: []byte("1")})
		send(t, b, d, broker.WorkerReply{Type: "final", Seq: 2, Body: []byte("right")})
		send(t, b, d, broker.WorkerReply{Type: "final", Seq: 3, Body: []byte("second")})
		send(t, b, d, broker.WorkerReply{Type: "progress", Seq: 4, Body: []byte("late")})
		want := []string{"foreign", "garbage", "garbage", "garbage", "event", "duplicate", "outcome", "duplicate", "late"}
		if got := settle(t, b); !cmp.Equal(got, want) {
			t.Errorf("settled\n%v, want\n%v", got, want)
		}
		got, err := b.Reply(t.Context(), r.ID)
		if err != nil || string(got.Reply.Body) != "right" || got.Events != 2 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestRetryAndMaxAttempts(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		r := submit(t, b, "body")
		stale := claim(t, b)
		send(t, b, stale, broker.WorkerReply{Type: "retry", Delay: 20 * time.Millisecond, Error: &broker.Error{Message: "busy"}})
		settle(t, b)
		if got := status(t, b, r.ID); got.Status != broker.Scheduled || got.Attempt != 2 {
			t.Fatalf("after retry: %s, attempt %d", got.Status, got.Attempt)
		}
		await(t, b, r.ID, broker.Queued)
		d := claim(t, b)
		if d.Attempt != 2 || string(d.Body) != "body" || d.ContentType != "text/plain" {
			t.Errorf("second delivery: %+v", d)
		}
		send(t, b, stale, broker.WorkerReply{Type: "final", Body: []byte("stale")})
		send(t, b, d, broker.WorkerReply{Type: "retry", Delay: time.Millisecond}) // at once
		if got, want := settle(t, b), []string{"stale", "retry"}; !cmp.Equal(got, want) {
			t.Errorf("settled %v, want %v", got, want)
		}
		d = claim(t, b)
		send(t, b, d, broker.WorkerReply{Type: "retry", Error: &broker.Error{Message: "still busy"}})
		settle(t, b)
		got := status(t, b, r.ID)
		if got.Status != broker.Failed || got.Reason != "max_attempts" || got.Error.Message != "still busy" || got.Attempt != 3 {
			t.Errorf("after the last: %+v", got)
		}
	})
}

func TestClocks(t *testing.T) {
	short := 60 * time.Millisecond
	tests := map[string]struct {
		change func(*broker.Submission)
		claim  bool
		reason string
	}{
		"total":               {func(s *broker.Submission) { s.Timeout = short }, false, "total"},
		"total while running": {func(s *broker.Submission) { s.Timeout = short }, true, "total"},
		"start":               {func(s *broker.Submission) { s.StartTimeout = short }, false, "start"},
		"run":                 {func(s *broker.Submission) { s.RunTimeout = short }, true, "run"},
	}
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				r := submit(t, b, "x", test.change)
				var d broker.Delivery
				if test.claim {
					d = claim(t, b)
				}
				got := await(t, b, r.ID, broker.TimedOut)
				if got.Reason != test.reason {
					t.Errorf("reason %q, want %q", got.Reason, test.reason)
				}
				if test.claim {
					send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("late")})
					if got := settle(t, b); !cmp.Equal(got, []string{"late"}) {
						t.Errorf("late reply: %v", got)
					}
				}
			})
		}
	})
}

// A reply that Redis took before the deadline counts, however late it is read.
func TestReplyBeforeDeadlineReadAfter(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		r := submit(t, b, "x", func(s *broker.Submission) { s.Timeout = 50 * time.Millisecond })
		d := claim(t, b)
		send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("in time")})
		came(t, redis, r.Deadline)
		pass(t, b, r.Deadline)
		if got := decide(t, b); !cmp.Equal(got, []string{"settle"}) {
			t.Errorf("decided %v before the reply was settled", got)
		}
		settle(t, b)
		if got := status(t, b, r.ID); got.Status != broker.Succeeded {
			t.Errorf("%s, want succeeded", got.Status)
		}
	})
}

// A worker that acknowledges by itself loses nothing: its reply counts, and
// where none comes, another worker gets the request.
func TestCancel(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		r := submit(t, b, "x")
		if got, err := b.Cancel(t.Context(), r.ID); err != nil || got.Status != broker.Canceled {
			t.Fatalf("cancel: %s, %v", got.Status, err)
		}
		if _, err := b.Cancel(t.Context(), r.ID); !errors.Is(err, broker.ErrTerminal) {
			t.Errorf("second cancel: %v", err)
		}
		if got, err := b.Claim(t.Context(), "w1", []string{"echo"}, 1, 10*time.Millisecond); err != nil || len(got) != 0 {
			t.Errorf("a worker saw a canceled request: %v, %v", got, err)
		}
		r = submit(t, b, "x")
		d := claim(t, b)
		told := make(chan string, 1)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.Cancellations(ctx, []string{"echo"}, func(_, id string) { told <- id }, func() {})
		}()
		for redis.Client.PubSubNumSub(t.Context(), "cc:cancel:echo").Val()["cc:cancel:echo"] == 0 {
		}
		if _, err := b.Cancel(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		if got := <-told; got != d.ID {
			t.Errorf("worker was told %s, want %s", got, d.ID)
		}
		stop()
		<-done
	})
}

// Nothing is left behind after retention, and nothing open expires.
func TestRetention(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		short := func(s *broker.Submission) {
			s.Retention = 50 * time.Millisecond
			s.IdempotencyKey = fmt.Sprint(len(s.Body))
		}
		warm := submit(t, b, "warm up", short) // makes the counters
		d := claim(t, b)
		send(t, b, d, broker.WorkerReply{Type: "final"})
		settle(t, b)
		gone(t, b, redis, warm.ID)
		base := redis.Keys(t)
		r := submit(t, b, "x", short)
		d = claim(t, b)
		send(t, b, d, broker.WorkerReply{Type: "progress", Body: []byte("1")})
		send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("1")})
		settle(t, b)
		gone(t, b, redis, r.ID)
		c := submit(t, b, "xx", short)
		if err := b.Delete(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		gone(t, b, redis, c.ID)
		left := slices.DeleteFunc(redis.Keys(t), func(key string) bool { return deleted(t, redis, key) })
		slices.Sort(base)
		slices.Sort(left)
		if diff := cmp.Diff(base, left); diff != "" {
			t.Errorf("left behind (-base +left):\n%s", diff)
		}
	})
}

func gone(t testing.TB, b *broker.Broker, r *redistest.Redis, id correlation.ID) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		if _, err := b.Status(t.Context(), id); errors.Is(err, broker.ErrGone) && !slices.ContainsFunc(r.Keys(t), func(k string) bool { return strings.HasSuffix(k, id.String()) && !deleted(t, r, k) }) {
			return
		}
	}
	t.Fatal("the record is still there")
}

// deleted tells whether a key is what a deleted record leaves for a minute.
func deleted(t testing.TB, r *redistest.Redis, key string) bool {
	return strings.Contains(key, ":request:") && slices.Equal(r.Client.HKeys(t.Context(), key).Val(), []string{"nonce"}) && r.Client.PTTL(t.Context(), key).Val() > 0
}

func TestAttachWakes(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		a := open(t, redis, func(o *broker.Options) { o.Name = "a" })
		b := open(t, redis, func(o *broker.Options) { o.Name = "b" })
		woken, ready := make(chan correlation.ID, 8), make(chan struct{}, 8)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.Wakes(ctx, func(wakes []broker.Wake) {
				for _, w := range wakes {
					woken <- w.ID
				}
			}, func() { ready <- struct{}{} })
		}()
		<-ready
		r := submit(t, b, "x")
		other := submit(t, b, "y")
		if _, err := a.Attach(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			d := claim(t, b)
			send(t, b, d, broker.WorkerReply{Type: "final"})
		}
		settle(t, b) // by another gateway
		if got := <-woken; got != r.ID {
			t.Errorf("woken for %v, want %v (not for %v)", got, r.ID, other.ID)
		}
		stop()
		<-done
	})
}
