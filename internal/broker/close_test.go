package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A call that comes after Close is refused, and does not wait for an answer that
// nobody gives: a worker's handler may outlive its drain.
func TestCallAfterClose(t *testing.T) {
	b := open(t, redistest.Embedded(t))
	r := submit(t, b, "x")
	d := claim(t, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	for range 20 { // which way a call goes is chance
		if _, err := b.Status(ctx, r.ID); !errors.Is(err, broker.ErrClosed) {
			t.Fatalf("status: %v", err)
		}
		if err := b.Send(ctx, d, broker.WorkerReply{Type: "heartbeat"}); !errors.Is(err, broker.ErrClosed) {
			t.Fatalf("send: %v", err)
		}
	}
}
