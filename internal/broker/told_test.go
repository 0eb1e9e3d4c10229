package broker_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// What is told of an outcome makes of the record that was seen open the one that a read
// brings; where it can't, it says so.
func TestToldAsRead(t *testing.T) {
	final := func(reply broker.WorkerReply) func(*testing.T, *broker.Broker, correlation.ID) {
		return func(t *testing.T, b *broker.Broker, _ correlation.ID) {
			send(t, b, claim(t, b), reply)
			settle(t, b)
		}
	}
	cases := map[string]struct {
		change func(*broker.Submission)
		end    func(*testing.T, *broker.Broker, correlation.ID)
		silent bool // nothing is told
		here   bool // nothing is told but to who waits where it is settled
		other  bool // it is not of what was seen
	}{
		"succeeded":                {end: final(broker.WorkerReply{Type: "final", ContentType: "text/plain", StatusCode: 201, Body: []byte("a b\n:\x00\xff"), Headers: map[string]string{"x-page": "1"}})},
		"empty":                    {end: final(broker.WorkerReply{Type: "final"})},
		"kept in a key of its own": {end: final(broker.WorkerReply{Type: "final", Body: []byte(strings.Repeat("x", 4096))})},
		"large":                    {end: final(broker.WorkerReply{Type: "final", Body: []byte(strings.Repeat("x", 4097))}), here: true},
		"in no document":           {end: final(broker.WorkerReply{Type: "final", Body: []byte(strings.Repeat("x", 65537))}), silent: true},
		"failed":                   {end: final(broker.WorkerReply{Type: "failed", StatusCode: 422, Body: []byte("no"), Error: &broker.Error{Code: strings.Repeat("c", 70), Message: strings.Repeat("é ", 1000)}})},
		"minimal":                  {change: func(s *broker.Submission) { s.Minimal = true }, end: final(broker.WorkerReply{Type: "final", Body: []byte("x")})},
		"canceled": {change: func(s *broker.Submission) { s.Tags = []string{"a"} }, end: func(t *testing.T, b *broker.Broker, id correlation.ID) {
			if _, err := b.Cancel(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}},
		"after progress": {end: func(t *testing.T, b *broker.Broker, _ correlation.ID) {
			d := claim(t, b)
			send(t, b, d, broker.WorkerReply{Type: "progress", Body: []byte("1")})
			send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("2")})
			settle(t, b)
		}},
		"second attempt": {other: true, end: func(t *testing.T, b *broker.Broker, _ correlation.ID) {
			send(t, b, claim(t, b), broker.WorkerReply{Type: "retry", Delay: time.Millisecond})
			settle(t, b)
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("2")})
			settle(t, b)
		}},
	}
	check := func(t *testing.T, redis *redistest.Redis, another bool) {
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				b := open(t, redis)
				c.silent = c.silent || c.here && another
				by := b // settles
				if another {
					by = open(t, redis)
				}
				told := listen(t, b)
				var change []func(*broker.Submission)
				if c.change != nil {
					change = append(change, c.change)
				}
				id := submit(t, b, "x", change...).ID
				seen, err := b.Attach(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				c.end(t, by, id)
				var got broker.Record
				fits, over := false, false
				for !over {
					w := <-told
					if w.Outcome != nil {
						got, fits = seen.Ended(w.Outcome)
					}
					read, err := b.Status(t.Context(), id)
					if err != nil {
						t.Fatal(err)
					}
					over = w.Outcome != nil || c.silent
					if diff := cmp.Diff(read, got); fits && diff != "" {
						t.Errorf("read, told: %s", diff)
					}
				}
				if fits == (c.silent || c.other) {
					t.Errorf("it is told: %t", fits)
				}
			})
		}
	}
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		t.Run("by the answer", func(t *testing.T) { check(t, redis, false) })
		t.Run("published", func(t *testing.T) { check(t, redis, true) })
	})
}

// listen passes on what the gateway of b is told.
func listen(t *testing.T, b *broker.Broker) <-chan broker.Wake {
	t.Helper()
	told, resumed := hear(t, b)
	<-resumed
	return told
}

// hear passes on what the gateway of b is told, and when it may have missed something.
func hear(t *testing.T, b *broker.Broker) (<-chan broker.Wake, <-chan struct{}) {
	t.Helper()
	told, resumed := make(chan broker.Wake, 64), make(chan struct{}, 8)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Wakes(ctx, func(wakes []broker.Wake) {
			for _, w := range wakes {
				told <- w
			}
		}, func() { resumed <- struct{}{} })
	}()
	t.Cleanup(func() { stop(); <-done })
	return told, resumed
}
