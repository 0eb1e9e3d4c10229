package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/quickredis"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/steward"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// bench is a gateway's broker and steward in a bubble, where time passes only
// while everybody waits.
type bench struct {
	*broker.Broker
	t    *testing.T
	mini *quickredis.Redis
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu    sync.Mutex // guards facts
	facts []string   // kinds that the steward found
}

// bubble runs a test with a bench whose services have a lease of 3 s.
func bubble(t *testing.T, test func(*testing.T, *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t}
		b.mini, b.dial = redistest.Pipe(t)
		var err error
		b.Broker, err = broker.Open(t.Context(), broker.Options{
			URL: "redis://bubble", Dial: b.dial, Logger: quiet,
			Defaults: broker.ServiceConfig{Lease: 3 * time.Second, Timeout: time.Minute},
		})
		if err != nil {
			t.Fatal(err)
		}
		b.Observe(func(f broker.Fact) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.facts = append(b.facts, f.Kind)
		})
		s := steward.New(b.Broker, quiet)
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { b.Run(ctx) })
		running.Go(func() { s.Run(ctx) })
		test(t, b)
		cancel()
		running.Wait()
		b.Close()
	})
}

// work runs a worker; stop drains it and returns once Run has.
func (b *bench) work(setUp func(*worker.Worker), options ...worker.Option) (stop func()) {
	b.t.Helper()
	options = append([]worker.Option{worker.Dialer(b.dial), worker.Logger(quiet), worker.Name("w1")}, options...)
	w := worker.New("redis://bubble", options...)
	setUp(w)
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	time.Sleep(2 * time.Second) // the gateway knows the services by now
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
}

func (b *bench) submit(service, body string, change ...func(*broker.Submission)) broker.Record {
	b.t.Helper()
	s := broker.Submission{Tenant: broker.DefaultTenant, Service: service, ContentType: "text/plain", Body: []byte(body)}
	for _, c := range change {
		c(&s)
	}
	r, _, err := b.Submit(b.t.Context(), s)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// outcome waits until the request is terminal.
func (b *bench) outcome(r broker.Record) broker.Record {
	b.t.Helper()
	return b.until(r, func(r broker.Record) bool { return r.Status.Terminal() })
}

func (b *bench) until(r broker.Record, is func(broker.Record) bool) broker.Record {
	b.t.Helper()
	for range 6000 {
		got, err := b.Status(b.t.Context(), r.ID)
		if err == nil && is(got) {
			return got
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.t.Fatal("two minutes went by and nothing came of it")
	return r
}

func (b *bench) saw(kind string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range b.facts {
		if k == kind {
			n++
		}
	}
	return n
}

func TestReplyAndEvents(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var seen worker.Request
		stop := b.work(func(w *worker.Worker) {
			w.Handle("resize", func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
				seen = *r
				for _, send := range []func() error{
					func() error { return r.Progress(ctx, map[string]int{"percent": 50}) },
					func() error { return r.Progress(ctx, []byte("raw")) },
					func() error { return r.Partial(ctx, "text/csv", []byte("a,b\n")) },
				} {
					if err := send(); err != nil {
						return worker.Reply{}, err
					}
				}
				if err := r.Progress(ctx, make([]byte, worker.MaxEvent+1)); err == nil {
					return worker.Reply{}, errors.New("an event of more than MaxEvent was taken")
				}
				return worker.Reply{ContentType: "image/png", Body: []byte("\x89PNG"), StatusCode: 201}, nil
			})
		})
		defer stop()
		r := b.submit("resize", "\x00body", func(s *broker.Submission) {
			s.Headers, s.Traceparent = map[string]string{"accept": "image/png"}, "00-1-2-01"
		})
		got := b.outcome(r)
		if got.Status != broker.Succeeded || got.Worker != "w1" || got.Reply.StatusCode != 201 ||
			got.Reply.ContentType != "image/png" || string(got.Reply.Body) != "\x89PNG" {
			t.Errorf("%+v, reply %+v", got, got.Reply)
		}
		if seen.ID != r.ID.String() || seen.Attempt != 1 || seen.Service != "resize" || string(seen.Body) != "\x00body" ||
			seen.ContentType != "text/plain" || seen.Headers["accept"] != "image/png" || seen.Traceparent != "00-1-2-01" {
			t.Errorf("the handler saw %+v", seen)
		}
		if off := seen.Deadline.Sub(r.Deadline).Abs(); off > time.Second {
			t.Errorf("deadline is off by %v", off)
		}
		_, events, _, err := b.Events(t.Context(), r.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, e := range events {
			lines = append(lines, fmt.Sprintf("%d %s %s %s", e.Number, e.Type, e.ContentType, e.Body))
		}
		want := []string{`1 progress application/json {"percent":50}`, "2 progress text/plain; charset=utf-8 raw", "3 partial text/csv a,b\n"}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		if err := seen.Progress(t.Context(), 1); !errors.Is(err, worker.ErrAnswered) {
			t.Errorf("progress after the reply: %v", err)
		}
	})
}

func TestErrors(t *testing.T) {
	tests := map[string]struct {
		handler  worker.Handler
		attempts int
		err      broker.Error
		reason   string
	}{
		"plain": {
			func(context.Context, *worker.Request) (worker.Reply, error) {
				return worker.Reply{}, errors.New("boom")
			},
			1,
			broker.Error{Code: "worker_error", Message: "boom"},
			"worker",
		},
		"fail": {
			func(context.Context, *worker.Request) (worker.Reply, error) {
				return worker.Reply{}, fmt.Errorf("wrapped: %w", worker.Fail("too_big", "The image is too big."))
			},
			1,
			broker.Error{Code: "too_big", Message: "The image is too big."},
			"worker",
		},
		"retry": {
			func(context.Context, *worker.Request) (worker.Reply, error) {
				return worker.Reply{}, worker.Retry(errors.New("busy"), 10*time.Millisecond)
			},
			3,
			broker.Error{Code: "max_attempts", Message: "busy"},
			"max_attempts",
		},
		"retry when the gateway likes": {
			func(context.Context, *worker.Request) (worker.Reply, error) {
				return worker.Reply{}, worker.Retry(nil, 0)
			},
			3,
			broker.Error{Code: "max_attempts", Message: "the worker asked for another attempt"},
			"max_attempts",
		},
		"panic": {
			func(context.Context, *worker.Request) (worker.Reply, error) { panic("secret") },
			1,
			broker.Error{Code: "panic", Message: "The worker's handler panicked."},
			"worker",
		},
		"goexit": {
			func(context.Context, *worker.Request) (worker.Reply, error) {
				runtime.Goexit()
				return worker.Reply{}, nil
			},
			1,
			broker.Error{Code: "panic", Message: "The worker's handler panicked."},
			"worker",
		},
	}
	bubble(t, func(t *testing.T, b *bench) {
		stop := b.work(func(w *worker.Worker) {
			for name, test := range tests {
				w.Handle(strings.ReplaceAll(name, " ", "-"), test.handler)
			}
			w.Handle("body", func(context.Context, *worker.Request) (worker.Reply, error) {
				return worker.Reply{ContentType: "text/plain", Body: []byte("why"), StatusCode: 422}, errors.New("no")
			})
		})
		defer stop()
		for name, test := range tests {
			got := b.outcome(b.submit(strings.ReplaceAll(name, " ", "-"), "x"))
			if got.Status != broker.Failed || got.Reason != test.reason || got.Attempt != test.attempts || !cmp.Equal(*got.Error, test.err) {
				t.Errorf("%s: %s %s, attempt %d, %+v", name, got.Status, got.Reason, got.Attempt, got.Error)
			}
		}
		got := b.outcome(b.submit("body", "x"))
		if got.Status != broker.Failed || got.Reply == nil || string(got.Reply.Body) != "why" || got.Reply.StatusCode != 422 {
			t.Errorf("a failure with a body: %+v", got.Reply)
		}
	})
}

// The context says why nobody wants the reply any more, and nothing is sent then.
func TestContextEnds(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		causes := make(chan error, 1)
		stop := b.work(func(w *worker.Worker) {
			w.Handle("wait", func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
				<-ctx.Done()
				causes <- context.Cause(ctx)
				if err := r.Progress(context.Background(), 1); err == nil {
					t.Error("progress was sent for a request that has ended")
				}
				return worker.Reply{}, ctx.Err()
			})
		})
		r := b.submit("wait", "x")
		b.until(r, func(r broker.Record) bool { return r.Status == broker.Running })
		if _, err := b.Cancel(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		if cause := <-causes; !errors.Is(cause, worker.ErrCanceled) {
			t.Errorf("canceled: %v", cause)
		}

		r = b.submit("wait", "x", func(s *broker.Submission) { s.Timeout = 5500 * time.Millisecond })
		if cause := <-causes; !errors.Is(cause, context.DeadlineExceeded) {
			t.Errorf("timed out: %v", cause)
		}
		if got := b.outcome(r); got.Status != broker.TimedOut || got.Reason != "total" {
			t.Errorf("%s %s", got.Status, got.Reason)
		}

		r = b.submit("wait", "x", func(s *broker.Submission) { s.RunTimeout = 5500 * time.Millisecond })
		if cause := <-causes; !errors.Is(cause, worker.ErrCanceled) {
			t.Errorf("run timeout: %v", cause)
		}
		if got := b.outcome(r); got.Status != broker.TimedOut || got.Reason != "run" {
			t.Errorf("%s %s", got.Status, got.Reason)
		}
		stop()
		time.Sleep(5 * time.Second)
		if n := b.saw("late"); n != 0 {
			t.Errorf("%d replies came for requests that had ended", n)
		}
	})
}

// A handler may take ten times the lease: heartbeats keep it.
func TestHeartbeats(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		stop := b.work(func(w *worker.Worker) {
			w.Handle("slow", func(context.Context, *worker.Request) (worker.Reply, error) {
				time.Sleep(30 * time.Second)
				return worker.Reply{}, nil
			})
		})
		defer stop()
		got := b.outcome(b.submit("slow", "x"))
		if got.Status != broker.Succeeded || got.Attempt != 1 || b.saw("lapse") != 0 {
			t.Errorf("%s, attempt %d, %d lapses", got.Status, got.Attempt, b.saw("lapse"))
		}
		if n := b.saw("heartbeat"); n < 25 || n > 31 {
			t.Errorf("%d heartbeats in 30 s with a lease of 3 s, want one a second", n)
		}
	})
}

// One whose lease is short is kept too, beside others that need a heartbeat seldom.
func TestHeartbeatsOfAll(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		handler := func(context.Context, *worker.Request) (worker.Reply, error) {
			time.Sleep(40 * time.Second)
			return worker.Reply{}, nil
		}
		stop := b.work(func(w *worker.Worker) {
			w.Handle("rare", handler, worker.Lease(30*time.Second))
			w.Handle("often", handler, worker.Lease(3*time.Second))
		})
		defer stop()
		var all []broker.Record
		for range 3 {
			all = append(all, b.submit("rare", "x"))
			time.Sleep(300 * time.Millisecond)
			all = append(all, b.submit("often", "x"))
			time.Sleep(300 * time.Millisecond)
		}
		for _, r := range all {
			if got := b.outcome(r); got.Status != broker.Succeeded || got.Attempt != 1 {
				t.Errorf("%s: %s, attempt %d", r.Service, got.Status, got.Attempt)
			}
		}
		if n := b.saw("heartbeat"); n < 3*(37+2) || n > 3*(44+4) {
			t.Errorf("%d heartbeats in 40 s of 3 requests with a lease of 3 s and 3 with one of 30 s", n)
		}
		if b.saw("lapse")+b.saw("late") > 0 {
			t.Errorf("%d lapses, %d late", b.saw("lapse"), b.saw("late"))
		}
	})
}

// What a worker can't run stays in the queue for others.
func TestClaimsOnlyFreeSlots(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var now, most atomic.Int64
		stop := b.work(func(w *worker.Worker) {
			w.Handle("slot", func(context.Context, *worker.Request) (worker.Reply, error) {
				for n := now.Add(1); n > most.Load(); {
					most.Store(n)
				}
				time.Sleep(5 * time.Second)
				now.Add(-1)
				return worker.Reply{}, nil
			})
			w.Handle("other", func(context.Context, *worker.Request) (worker.Reply, error) { return worker.Reply{}, nil })
		}, worker.Concurrency(3))
		defer stop()
		var all []broker.Record
		for range 10 {
			all = append(all, b.submit("slot", "x"))
		}
		time.Sleep(3 * time.Second)
		running := 0
		for _, r := range all {
			if got, err := b.Status(t.Context(), r.ID); err == nil && got.Status == broker.Running {
				running++
			}
		}
		if running != 3 {
			t.Errorf("%d claimed with 3 slots", running)
		}
		for _, r := range all {
			if got := b.outcome(r); got.Status != broker.Succeeded || got.Attempt != 1 {
				t.Errorf("%s, attempt %d", got.Status, got.Attempt)
			}
		}
		if most.Load() != 3 {
			t.Errorf("%d handlers at once, want 3", most.Load())
		}
	})
}

func TestMiddleware(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var order []string
		around := func(name string) func(worker.Handler) worker.Handler {
			return func(next worker.Handler) worker.Handler {
				return func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
					order = append(order, name)
					return next(ctx, r)
				}
			}
		}
		stop := b.work(func(w *worker.Worker) {
			w.Use(around("first"))
			w.Handle("x", func(context.Context, *worker.Request) (worker.Reply, error) {
				order = append(order, "handler")
				return worker.Reply{}, nil
			})
			w.Use(around("second"))
		})
		defer stop()
		b.outcome(b.submit("x", ""))
		if want := []string{"first", "second", "handler"}; !cmp.Equal(order, want) {
			t.Errorf("called %v, want %v", order, want)
		}
	})
}

// The lease that a worker announces holds for the requests of its service.
func TestAnnouncesLease(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		stop := b.work(func(w *worker.Worker) {
			w.Handle("long", func(context.Context, *worker.Request) (worker.Reply, error) { return worker.Reply{}, nil }, worker.Lease(10*time.Minute))
		})
		stop()
		b.submit("long", "x")
		got, err := b.Claim(t.Context(), "other", []string{"long"}, 1, time.Second)
		if err != nil || len(got) != 1 || got[0].Lease != 10*time.Minute {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestSetUpMistakes(t *testing.T) {
	fn := func(context.Context, *worker.Request) (worker.Reply, error) { return worker.Reply{}, nil }
	tests := map[string]struct {
		options []worker.Option
		setUp   func(*worker.Worker)
		want    string
	}{
		"no service":    {nil, func(*worker.Worker) {}, "no service"},
		"bad name":      {nil, func(w *worker.Worker) { w.Handle("a b", fn) }, `service "a b"`},
		"no handler":    {nil, func(w *worker.Worker) { w.Handle("a", nil) }, "no handler"},
		"twice":         {nil, func(w *worker.Worker) { w.Handle("a", fn); w.Handle("a", fn) }, "two handlers"},
		"no slots":      {[]worker.Option{worker.Concurrency(0)}, func(w *worker.Worker) { w.Handle("a", fn) }, "concurrency 0"},
		"zero lease":    {nil, func(w *worker.Worker) { w.Handle("a", fn, worker.Lease(0)) }, "lease 0s"},
		"rare beats":    {[]worker.Option{worker.Heartbeat(2 * time.Second)}, func(w *worker.Worker) { w.Handle("a", fn, worker.Lease(5*time.Second)) }, "too seldom"},
		"rare beats 2":  {[]worker.Option{worker.Heartbeat(11 * time.Second)}, func(w *worker.Worker) { w.Handle("a", fn) }, "too seldom"},
		"negative":      {[]worker.Option{worker.Grace(-1)}, func(w *worker.Worker) { w.Handle("a", fn) }, "grace"},
		"name in parts": {[]worker.Option{worker.Name("a b")}, func(w *worker.Worker) { w.Handle("a", fn) }, "white space"},
	}
	for name, test := range tests {
		w := worker.New("redis://127.0.0.1:1", append(test.options, worker.Logger(quiet))...)
		test.setUp(w)
		if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := worker.New("http://nowhere", worker.Logger(quiet))
	w.Handle("a", fn)
	if err := w.Run(t.Context()); err == nil {
		t.Error("a URL that is none was taken")
	}
}
