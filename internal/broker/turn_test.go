package broker_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// slow is a connection to a Redis that takes its time while it is told to.
type slow struct {
	net.Conn
	takes *atomic.Bool
}

func (s slow) Write(p []byte) (int, error) {
	if s.takes.Load() {
		time.Sleep(200 * time.Millisecond)
	}
	return s.Conn.Write(p)
}

// Where one asks a slow Redis for what all share, the others wait for that no longer than
// they want to. With a mutex the bubble would not go on at all.
func TestWhoWaitsForAnothersLookMayLeave(t *testing.T) {
	for name, ask := range map[string]func(context.Context, *broker.Broker) error{
		"workers":    func(ctx context.Context, b *broker.Broker) error { _, err := b.Slots(ctx, "echo"); return err },
		"a queue":    func(ctx context.Context, b *broker.Broker) error { _, err := b.Queue(ctx, "echo"); return err },
		"durability": broker.Inspect,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, dial := redistest.Pipe(t)
				var takes atomic.Bool
				b, err := broker.Open(t.Context(), broker.Options{
					URL: "redis://pipe:1", Logger: slog.New(slog.DiscardHandler), Services: map[string]broker.ServiceConfig{"echo": {}},
					Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
						c, err := dial(ctx, network, addr)
						return slow{c, &takes}, err
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				time.Sleep(2 * time.Second) // what was read at the start is old
				takes.Store(true)
				first := make(chan error, 1)
				go func() { first <- ask(t.Context(), b) }()
				synctest.Wait()
				begun := time.Now()
				ctx, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
				defer stop()
				if err := ask(ctx, b); !errors.Is(err, broker.ErrUnavailable) {
					t.Errorf("who is impatient hears %v", err)
				}
				if took := time.Since(begun); took != 10*time.Millisecond {
					t.Errorf("it left after %v", took)
				}
				if err := <-first; err != nil {
					t.Errorf("who was first hears %v", err)
				}
			})
		})
	}
}
