package steward_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/steward"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// gateway is a broker and its steward, as one process has them.
type gateway struct {
	*broker.Broker
	steward *steward.Steward
	stop    func() // drains
}

func start(t *testing.T, url string) gateway { t.Helper(); return startWith(t, url, quiet) }

func startWith(t *testing.T, url string, log *slog.Logger, change ...func(*broker.Options)) gateway {
	t.Helper()
	o := broker.Options{URL: url, Logger: quiet, Services: map[string]broker.ServiceConfig{"echo": {Lease: 200 * time.Millisecond}}}
	for _, f := range change {
		f(&o)
	}
	b, err := broker.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := steward.New(b, log)
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	running.Go(func() { s.Run(ctx) })
	stop := sync.OnceFunc(func() {
		cancel()
		running.Wait()
		b.Close()
	})
	t.Cleanup(stop)
	return gateway{b, s, stop}
}

func (g gateway) submit(t *testing.T, timeout time.Duration) broker.Record {
	t.Helper()
	r, _, err := g.Submit(t.Context(), broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Body: []byte("x"), Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// until polls: what is waited for happens in Redis.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 15*time.Second)
	defer stop()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("never came: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestSettlesFiresAndTakesBack(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		g := start(t, r.URL)
		late := g.submit(t, 100*time.Millisecond)
		until(t, "the timeout", func() bool {
			got, err := g.Status(t.Context(), late.ID)
			return err == nil && got.Status == broker.TimedOut
		})
		work := g.submit(t, time.Minute)
		for attempt := 1; attempt <= 2; attempt++ { // the first worker dies
			var got []broker.Delivery
			until(t, "the delivery", func() bool {
				var err error
				got, err = g.Claim(t.Context(), "w", []string{"echo"}, 1, 100*time.Millisecond)
				return err == nil && len(got) == 1
			})
			if got[0].Attempt != attempt {
				t.Errorf("attempt %d, want %d", got[0].Attempt, attempt)
			}
			if attempt == 2 {
				if err := g.Send(t.Context(), got[0], broker.WorkerReply{Type: "final"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		until(t, "the outcome", func() bool {
			got, err := g.Status(t.Context(), work.ID)
			return err == nil && got.Status == broker.Succeeded
		})
	})
}

func TestTakesOverAtOnceAfterDrain(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		a := start(t, r.URL)
		until(t, "the first steward", func() bool { return a.steward.Held() == 1 })
		b := start(t, r.URL)
		a.stop()
		until(t, "the takeover", func() bool { return b.steward.Held() == 1 })
	})
}

func TestNewWorkFlowsAfterFlush(t *testing.T) {
	r := redistest.Start(t)
	g := start(t, r.URL)
	old := g.submit(t, time.Minute)
	if err := r.Client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Status(t.Context(), old.ID); err == nil {
		t.Error("a flushed request still has a status")
	}
	if err := g.Verify(old.ID, broker.DefaultTenant); err != nil {
		t.Errorf("an ID issued before the flush: %v", err)
	}
	next := g.submit(t, time.Minute)
	until(t, "the outcome", func() bool {
		got, _ := g.Claim(t.Context(), "w", []string{"echo"}, 1, 100*time.Millisecond)
		for _, d := range got {
			g.Send(t.Context(), d, broker.WorkerReply{Type: "final"})
		}
		s, err := g.Status(t.Context(), next.ID)
		return err == nil && s.Status == broker.Succeeded
	})
	until(t, "the configuration", func() bool { return r.Client.Exists(t.Context(), "cc:config").Val() == 1 })
}

// A worker that is killed may have held many requests: they go to others
// together, not so many a second.
func TestManyLeasesLapseTogether(t *testing.T) {
	const held = 400
	g := start(t, redistest.Server(t))
	for range held {
		g.submit(t, time.Minute)
	}
	again := map[string]bool{}
	take := func(worker string) int {
		got, err := g.Claim(t.Context(), worker, []string{"echo"}, held, 100*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range got {
			again[d.ID] = d.Attempt > 1
		}
		return len(got)
	}
	if n := take("dead"); n != held {
		t.Fatalf("claimed %d", n)
	}
	clear(again)
	begun := time.Now()
	until(t, "all requests at another worker", func() bool { return take("alive") >= 0 && len(again) >= held })
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

// A worker that dies takes many requests along: that is one line of the log.
func TestManyLapsesAreOneLine(t *testing.T) {
	const many = 50
	var said bytes.Buffer
	g := startWith(t, redistest.Server(t), slog.New(slog.NewTextHandler(&said, nil)))
	var lapsed atomic.Int64
	g.Observe(func(f broker.Fact) {
		if f.Kind == "lapse" {
			lapsed.Add(1)
		}
	})
	for range many {
		g.submit(t, time.Minute)
	}
	if d, err := g.Claim(t.Context(), "dies", []string{"echo"}, many, time.Second); err != nil || len(d) != many {
		t.Fatalf("claimed %d, %v", len(d), err)
	}
	until(t, "all lapsed", func() bool { return lapsed.Load() == many })
	g.stop()
	if n := strings.Count(said.String(), "fell silent"); n != 1 {
		t.Errorf("%d lines:\n%s", n, said.String())
	}
}
