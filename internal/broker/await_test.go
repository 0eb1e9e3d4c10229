package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// awaited is a broker.Await.
type awaited struct {
	attach bool
	minted correlation.ID
	stored *broker.Record
}

func (a *awaited) Minted(id correlation.ID) bool {
	a.minted = id
	return a.attach
}

func (a *awaited) Stored(r broker.Record) { a.stored = &r }

// What a submit stored is what a read brings, and is woken as after Attach: so its outcome
// makes of the one what it makes of the other.
func TestStoredAsRead(t *testing.T) {
	cases := map[string]func(*broker.Submission){
		"plain": nil,
		"with all options": func(s *broker.Submission) {
			s.Tags, s.Traceparent, s.IdempotencyKey = []string{"a", "b"}, "00-1-2-01", "k"
			s.Callback = &broker.Callback{URL: "http://127.0.0.1:1/", Events: []string{"succeeded", "progress"}}
			s.Timeout, s.MaxAttempts, s.Tenant = 1500*time.Millisecond+time.Microsecond, 7, "other"
			s.Headers = map[string]string{"x-a": "1"}
		},
	}
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		for name, change := range cases {
			t.Run(name, func(t *testing.T) {
				b := open(t, redis)
				told := listen(t, b)
				a := &awaited{attach: true}
				id := submit(t, b, "x", func(s *broker.Submission) {
					if s.Await = a; change != nil {
						change(s)
					}
				}).ID
				if a.minted != id || a.stored == nil {
					t.Fatalf("minted %v, stored %v, want %v", a.minted, a.stored, id)
				}
				read, err := b.Status(t.Context(), id)
				if diff := cmp.Diff(read, *a.stored); err != nil || diff != "" {
					t.Errorf("read, stored: %s, %v", diff, err)
				}
				send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("y")})
				settle(t, b)
				w := <-told
				if w.ID != id || w.Outcome == nil || !w.Outcome.Lasts() {
					t.Fatalf("told %+v", w)
				}
				got, fits := a.stored.Ended(w.Outcome)
				read, err = b.Status(t.Context(), id)
				if diff := cmp.Diff(read, got); err != nil || !fits || diff != "" {
					t.Errorf("read, told: %s, %t, %v", diff, fits, err)
				}
			})
		}
	})
}

// A submit that is not stored with this process registered says nothing of it.
func TestNotStoredForWhoAwaits(t *testing.T) {
	cases := map[string]struct {
		attach bool
		change func(*broker.Submission)
	}{
		"it did not ask":  {attach: false, change: func(*broker.Submission) {}},
		"it is a repeat":  {attach: true, change: func(s *broker.Submission) { s.IdempotencyKey = "k" }},
		"it shares a run": {attach: true, change: func(s *broker.Submission) { s.Service = "shared" }},
	}
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Services["shared"] = broker.ServiceConfig{Coalesce: true} })
		submit(t, b, "x", func(s *broker.Submission) { s.IdempotencyKey = "k" })
		for name, c := range cases {
			a := &awaited{attach: c.attach}
			s := broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", ContentType: "text/plain", Body: []byte("x"), Await: a}
			c.change(&s)
			if _, _, err := b.Submit(t.Context(), s); err != nil || a.stored != nil {
				t.Errorf("%s: %v, stored %v", name, err, a.stored)
			}
			for _, key := range redis.Keys(t) {
				if is, _ := redis.Client.HExists(t.Context(), key, "waiters").Result(); is {
					t.Errorf("%s: %s has waiters", name, key)
				}
			}
		}
	})
}

// What succeeded is not deleted while a gateway may show it from memory.
func TestDeleteWaitsWhileYoung(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		id := submit(t, b, "x").ID
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		settle(t, b)
		r, err := b.Status(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if now, err := redis.Client.Time(t.Context()).Result(); err != nil || now.Sub(r.Created) < broker.Young {
			t.Errorf("deleted %s after it was created, %v", now.Sub(r.Created), err)
		}
		if _, err := b.Status(t.Context(), id); !errors.Is(err, broker.ErrGone) {
			t.Errorf("after that: %v", err)
		}
	})
}

// It is not waited for longer where Redis' clock stepped back since it was accepted.
func TestDeleteWaitsForNoClock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		r := submit(t, b, "x")
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		settle(t, b)
		record := unfolded(t.Context(), t, redis.Client, r.ID.String())
		_, rest, _ := strings.Cut(redis.Client.HGet(t.Context(), record, "plan").Val(), " ")
		redis.Client.HSet(t.Context(), record, "plan", fmt.Sprint(r.Created.Add(time.Hour).UnixMilli(), " ", rest))
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		if err := b.Delete(ctx, r.ID); err != nil {
			t.Error(err)
		}
	})
}
