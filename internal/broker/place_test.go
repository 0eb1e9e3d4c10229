package broker_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// While partitions are added, an idempotency key still means one request, at
// whichever gateway it is used, and old IDs keep resolving: at a gateway that
// has not heard of the raise, in the seconds in which both homes are about, and
// after a second raise.
func TestPartitionsRaised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, dial := redistest.Pipe(t)
		gateway := func(partitions int) *broker.Broker {
			b, err := broker.Open(t.Context(), broker.Options{
				URL: "redis://bubble:6379", Dial: dial, Partitions: partitions, Logger: slog.New(slog.DiscardHandler),
				Services: map[string]broker.ServiceConfig{"echo": {}},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			return b
		}
		accepted := map[string]correlation.ID{}
		submit := func(b *broker.Broker, key string) {
			t.Helper()
			r, replayed, err := b.Submit(t.Context(), broker.Submission{
				Tenant: "a", Service: "echo", Body: []byte(key), IdempotencyKey: key,
			})
			if err != nil {
				t.Fatal(err)
			}
			first, known := accepted[key]
			if known && (!replayed || r.ID != first) {
				t.Errorf("%s: %v, replayed %v; was accepted as %v before", key, r.ID, replayed, first)
			}
			if !known {
				accepted[key] = r.ID
			}
		}
		some := func(b *broker.Broker, name string) {
			t.Helper()
			for n := range 8 {
				submit(b, fmt.Sprintf("%s-%d", name, n))
			}
		}
		a := gateway(1)
		some(a, "before")
		b := gateway(3) // raises; a has not heard of it
		for n := range 30 {
			time.Sleep(500 * time.Millisecond)
			name := fmt.Sprintf("moment-%d", n)
			if n%2 == 0 {
				some(b, name)
				some(a, name)
			} else {
				some(a, name)
				some(b, name)
			}
			some(b, "before")
		}
		c := gateway(7)
		time.Sleep(time.Minute)
		used := map[int]bool{}
		for key, id := range accepted {
			submit(c, key)
			used[id.Partition()] = true
			if r, err := a.Status(t.Context(), id); err != nil || r.ID != id || a.Verify(id, "a") != nil {
				t.Errorf("%v at the first gateway: %v, %v", id, err, a.Verify(id, "a"))
			}
		}
		if len(used) != 3 {
			t.Errorf("requests in partitions %v, want all three", used)
		}
		if _, _, err := a.Submit(t.Context(), broker.Submission{
			Tenant: "a", Service: "echo", Body: []byte("other"), IdempotencyKey: "before-0",
		}); !errors.Is(err, broker.ErrIdempotencyMismatch) {
			t.Errorf("other payload in a former home: %v", err)
		}
	})
}

// A service with a limit of its own stays where its requests are while partitions
// are added, so that one number counts for all of it.
func TestConcurrencyWhilePartitionsAreRaised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, dial := redistest.Pipe(t)
		gateway := func(partitions int) *broker.Broker {
			b, err := broker.Open(t.Context(), broker.Options{
				URL: "redis://bubble:6379", Dial: dial, Partitions: partitions, Logger: slog.New(slog.DiscardHandler),
				Services: map[string]broker.ServiceConfig{"echo": {Concurrency: 1, Timeout: time.Hour}, "other": {}},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			return b
		}
		submit(t, gateway(1), "first")
		b := gateway(16)
		first := claim(t, b)
		time.Sleep(time.Minute) // the raise counts by then
		if r := submit(t, b, "second"); r.ID.Partition() != 0 {
			t.Errorf("while the first runs, the second is in partition %d", r.ID.Partition())
		}
		legs := func(s *broker.Scatter) {
			s.Legs = []broker.Submission{{Service: "other"}, {Service: "echo"}}
		}
		if r := scatter(t, b, legs); r.ID.Partition() != 0 {
			t.Errorf("while the first runs, a scatter is in partition %d", r.ID.Partition())
		} else if err := b.Delete(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		if got := take(t, b, 10); len(got) != 0 {
			t.Errorf("%s runs beside the first", got[0].Body)
		}
		send(t, b, first, broker.WorkerReply{Type: "final"})
		settle(t, b)
		if got := serve(t, b); len(got) != 1 {
			t.Errorf("then ran %v", got)
		}
		if r := submit(t, b, "third"); r.ID.Partition() == 0 {
			t.Error("a service that is idle does not move to its new home")
		}
	})
}
