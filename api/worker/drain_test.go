package worker_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// At the end, what finishes within the grace is answered, and the rest is given
// back at once: to another worker, as the next attempt.
func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		deaf := make(chan struct{})
		causes := make(chan error, 1)
		stop := b.work(func(w *worker.Worker) {
			w.Handle("short", func(context.Context, *worker.Request) (worker.Reply, error) {
				time.Sleep(8 * time.Second)
				return worker.Reply{Body: []byte("done")}, nil
			})
			w.Handle("long", func(ctx context.Context, _ *worker.Request) (worker.Reply, error) {
				<-ctx.Done()
				causes <- context.Cause(ctx)
				return worker.Reply{}, ctx.Err()
			})
			w.Handle("saves", func(ctx context.Context, _ *worker.Request) (worker.Reply, error) {
				<-ctx.Done()
				return worker.Reply{Body: []byte("so far")}, nil
			})
			w.Handle("deaf", func(context.Context, *worker.Request) (worker.Reply, error) {
				<-deaf
				return worker.Reply{Body: []byte("too late")}, nil
			})
		})
		requests := map[string]broker.Record{}
		for _, service := range []string{"short", "long", "saves", "deaf"} {
			requests[service] = b.submit(service, "x")
		}
		for _, r := range requests {
			b.until(r, func(r broker.Record) bool { return r.Status == broker.Running })
		}
		begun := time.Now()
		stop()
		if took := time.Since(begun); took > 14*time.Second {
			t.Errorf("Run took %v to end", took)
		}
		if cause := <-causes; !errors.Is(cause, worker.ErrShutdown) {
			t.Errorf("cause %v, want ErrShutdown", cause)
		}
		close(deaf)
		for service, reply := range map[string]string{"short": "done", "saves": "so far"} {
			if got := b.outcome(requests[service]); got.Status != broker.Succeeded || string(got.Reply.Body) != reply {
				t.Errorf("%s: %s, %+v", service, got.Status, got.Reply)
			}
		}
		time.Sleep(time.Second) // less than the lease
		for _, service := range []string{"long", "deaf"} {
			got, err := b.Status(t.Context(), requests[service].ID)
			if err != nil || got.Status != broker.Queued || got.Attempt != 2 {
				t.Errorf("%s: %s, attempt %d, %v; want it given back", service, got.Status, got.Attempt, err)
			}
		}
		if b.saw("lapse") != 0 {
			t.Error("a lease had to lapse")
		}
	})
}

// gate is a network that can be cut.
type gate struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu    sync.Mutex // guards the rest
	cut   bool
	conns []net.Conn
}

func (g *gate) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut {
		return nil, errors.New("the network is cut")
	}
	c, err := g.dial(ctx, network, addr)
	if err == nil {
		g.conns = append(g.conns, c)
	}
	return c, err
}

func (g *gate) set(cut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut = cut
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
}

// A worker waits for a Redis that isn't there, and keeps its replies while
// Redis is away.
func TestRedisAway(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		network := &gate{dial: b.dial, cut: true}
		began := make(chan struct{}, 1)
		stop := b.work(func(w *worker.Worker) {
			w.Handle("x", func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
				began <- struct{}{}
				time.Sleep(time.Second)
				if err := r.Progress(ctx, "half"); err != nil {
					return worker.Reply{}, err
				}
				return worker.Reply{Body: []byte("kept")}, nil
			}, worker.Lease(30*time.Second))
		}, worker.Dialer(network.Dial))
		defer stop()
		network.set(false)
		time.Sleep(3 * time.Second)
		r := b.submit("x", "")
		<-began
		network.set(true)
		time.Sleep(10 * time.Second)
		if got, err := b.Status(t.Context(), r.ID); err != nil || got.Status != broker.Running {
			t.Fatalf("%s, %v", got.Status, err)
		}
		network.set(false)
		got := b.outcome(r)
		if got.Status != broker.Succeeded || string(got.Reply.Body) != "kept" || got.Attempt != 1 || got.Events != 2 {
			t.Errorf("%+v, reply %+v", got, got.Reply)
		}
		if got := b.outcome(b.submit("x", "")); got.Status != broker.Succeeded {
			t.Errorf("after the cut: %s", got.Status)
		}
	})
}

// A worker that is told to end while it waits for Redis ends.
func TestEndsWhileWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		network := &gate{dial: b.dial, cut: true}
		stop := b.work(func(w *worker.Worker) {
			w.Handle("x", func(context.Context, *worker.Request) (worker.Reply, error) { return worker.Reply{}, nil })
		}, worker.Dialer(network.Dial))
		stop()
	})
}
