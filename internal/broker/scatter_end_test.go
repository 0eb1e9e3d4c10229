package broker_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// TestScatterIsCanceled in the middle, and deleted: workers are told, each by the
// channel of its service, and nothing is left.
func TestScatterIsCanceled(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree)
		told := redis.Client.PSubscribe(t.Context(), "cc:cancel:*")
		defer told.Close()
		if _, err := told.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := scatter(t, b)
		answer(t, b, claimOf(t, b, "a"), "final")
		d := claimOf(t, b, "b")
		settle(t, b)
		now, err := b.Cancel(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		wantLegs(t, now, broker.Canceled, "client", "succeeded", "canceled", "canceled")
		select {
		case m := <-told.Channel():
			if m.Channel != "cc:cancel:b" || m.Payload != r.ID.String() {
				t.Errorf("told %v", m)
			}
		case <-time.After(5 * time.Second):
			t.Error("the worker was not told")
		}
		answer(t, b, d, "final")
		if kinds := settle(t, b); !slices.Equal(kinds, []string{"late"}) {
			t.Errorf("settled %v", kinds)
		}
		if _, err := b.Cancel(t.Context(), r.ID); !errors.Is(err, broker.ErrTerminal) {
			t.Errorf("canceled twice: %v", err)
		}
		nothingMoves(t, redis)
		open := scatter(t, b)
		claimOf(t, b, "c")
		for _, id := range []correlation.ID{r.ID, open.ID} {
			if err := b.Delete(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		for _, key := range redis.Keys(t) {
			if strings.Contains(key, ":request:") && !deleted(t, redis, key) || strings.Contains(key, ":events:") {
				t.Errorf("%s is left", key)
			}
		}
		nothingMoves(t, redis)
	})
}

// TestScatterIsForgotten with all of its legs, at once, when its retention ends.
func TestScatterIsForgotten(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree)
		r := scatter(t, b, least(2), func(s *broker.Scatter) { s.Retention, s.IdempotencyKey = time.Hour, "key" })
		answer(t, b, claimOf(t, b, "a"), "final")
		answer(t, b, claimOf(t, b, "b"), "final")
		settle(t, b)
		now := status(t, b, r.ID)
		seen := 0
		for _, key := range redis.Keys(t) {
			if strings.Contains(key, ":request:") || strings.Contains(key, ":events:") || strings.Contains(key, ":idempotency:") {
				seen++
				left := redis.Client.PTTL(t.Context(), key).Val()
				if left > time.Hour || left < 50*time.Minute {
					t.Errorf("%s is kept for %s", key, left)
				}
			}
		}
		if seen != 6 || now.Expires.Sub(now.Finished) != time.Hour {
			t.Errorf("%d keys, kept until %s", seen, now.Expires)
		}
	})
}

// TestScatterIsAtomic: a full queue of one service refuses all, the same key gives
// the same scatter, another payload none.
func TestScatterIsAtomic(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree, func(o *broker.Options) { o.Services["c"] = broker.ServiceConfig{MaxQueued: 1} })
		keyed := func(s *broker.Scatter) { s.IdempotencyKey = "key" }
		r := scatter(t, b, keyed)
		if _, _, err := b.Scatter(t.Context(), scattering()); !errors.Is(err, broker.ErrQueueFull) {
			t.Errorf("above the limit: %v", err)
		}
		if n := redis.Client.XLen(t.Context(), "cc:{0}:queue:a").Val(); n != 1 {
			t.Errorf("%d entries are queued for a", n)
		}
		again, replayed, err := b.Scatter(t.Context(), scattering(keyed))
		if err != nil || !replayed || again.ID != r.ID || len(again.Legs) != 3 {
			t.Errorf("again: %v %v %v", again.ID, replayed, err)
		}
		if _, _, err := b.Scatter(t.Context(), scattering(keyed, least(1))); !errors.Is(err, broker.ErrIdempotencyMismatch) {
			t.Errorf("with another payload: %v", err)
		}
		if _, _, err := b.Scatter(t.Context(), scattering(func(s *broker.Scatter) { s.Legs[1].Service = "nobody" })); !errors.Is(err, broker.ErrUnknownService) {
			t.Errorf("of an unknown service: %v", err)
		}
		large := make([]byte, 32<<20)
		if _, _, err := b.Scatter(t.Context(), scattering(func(s *broker.Scatter) {
			for i := range s.Legs {
				s.Legs[i].Body = large
			}
		})); !errors.Is(err, broker.ErrScatterTooLarge) {
			t.Errorf("of 96 MiB: %v", err)
		}
	})
}

// TestScatterAnswersRace: all answer at once, twice, while two stewards settle. None
// is lost or counted twice.
func TestScatterAnswersRace(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		names := make([]string, 40)
		services := map[string]broker.ServiceConfig{}
		for i := range names {
			names[i] = fmt.Sprint("s", i)
			services[names[i]] = broker.ServiceConfig{}
		}
		b := open(t, redis, func(o *broker.Options) { o.Services = services })
		s := broker.Scatter{Submission: broker.Submission{Tenant: broker.DefaultTenant}, MinReplies: 20}
		for _, n := range names {
			s.Legs = append(s.Legs, broker.Submission{Service: n, Body: []byte(n)})
		}
		r, _, err := b.Scatter(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.Claim(t.Context(), "w", names, len(names), time.Second)
		if err != nil || len(got) != len(names) {
			t.Fatal(len(got), err)
		}
		var all sync.WaitGroup
		for _, d := range got {
			all.Go(func() {
				for range 2 {
					if err := b.Send(t.Context(), d, broker.WorkerReply{Type: "final", Body: d.Body}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for range 2 {
			all.Go(func() {
				for {
					now, err := b.Status(t.Context(), r.ID)
					if err != nil || now.Status.Terminal() {
						return
					}
					if _, _, err := b.Settle(t.Context(), 0); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		settle(t, b)
		now, events, _, err := b.Events(t.Context(), r.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		var set api.GatheredReplies
		if err := json.Unmarshal(now.Reply.Body, &set); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, e := range events {
			seen[e.Service] = true
		}
		if now.Status != broker.Succeeded || set.Succeeded != 20 || len(events) != 20 || len(seen) != 20 || now.Events != 21 {
			t.Errorf("%s with %d successes, %d events of %d services, the last has number %d", now.Status, set.Succeeded, len(events), len(seen), now.Events)
		}
		nothingMoves(t, redis)
	})
}

// TestScatterRepliesAreBounded: together they are as large as one reply may be, and
// what is too large for an event is in the reply.
func TestScatterRepliesAreBounded(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree, func(o *broker.Options) { o.MaxReply = 400 << 10 })
		r := scatter(t, b, least(1), func(s *broker.Scatter) { s.MinReplies = 2 })
		body := strings.Repeat("x", 300<<10)
		for _, service := range []string{"a", "b"} {
			send(t, b, claimOf(t, b, service), broker.WorkerReply{Type: "final", ContentType: "text/plain", Body: []byte(body)})
		}
		settle(t, b)
		answer(t, b, claimOf(t, b, "c"), "final")
		settle(t, b)
		now, events, _, err := b.Events(t.Context(), r.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		wantLegs(t, now, broker.Succeeded, "", "succeeded", "failed", "succeeded")
		if now.Legs[1].Error.Code != "reply_too_large" || now.Reply.Body != nil {
			t.Errorf("%+v, and %d bytes inline", now.Legs[1], len(now.Reply.Body))
		}
		if d := broker.EventDocument(events[0]); d.Size != 300<<10 || d.Body != nil || d.Encoding != "" {
			t.Errorf("the event has %d bytes, says %d", len(d.Body), d.Size)
		}
		whole, err := b.Reply(t.Context(), r.ID)
		if err != nil || !strings.Contains(string(whole.Reply.Body), body) {
			t.Errorf("the whole reply: %v", err)
		}
	})
}

// TestScatterOverHTTPClaims: a leg is entrusted, put back and answered by its token.
func TestScatterOverHTTPClaims(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree)
		r := scatter(t, b, least(1))
		held, err := b.Reserve(t.Context(), "a", 1, time.Second)
		if err != nil || len(held) != 1 {
			t.Fatal(held, err)
		}
		if err := b.Unclaim(t.Context(), held[0]); err != nil {
			t.Fatal(err)
		}
		if held, err = b.Reserve(t.Context(), "a", 1, time.Second); err != nil || len(held) != 1 {
			t.Fatalf("put back, it is not there again: %v %v", held, err)
		}
		handed, err := b.Entrust(t.Context(), held)
		if err != nil || len(handed) != 1 {
			t.Fatal(handed, err)
		}
		token := broker.ClaimToken(handed[0])
		if strings.Contains(token, "/") {
			t.Errorf("the token %s does not fit into a URL", token)
		}
		id, now, err := b.Answer(t.Context(), token, broker.WorkerReply{Type: "final", Body: []byte("x")})
		if err != nil || id != r.ID {
			t.Errorf("answer: %s %s %v", id, now, err)
		}
		settle(t, b)
		wantLegs(t, status(t, b, r.ID), broker.Succeeded, "", "succeeded", "canceled", "canceled")
		if _, _, err := b.Answer(t.Context(), token, broker.WorkerReply{Type: "heartbeat"}); !errors.Is(err, broker.ErrClaimLost) {
			t.Errorf("after the outcome: %v", err)
		}
	})
}

// TestScatterOfAHundred services, as many as there may be: all answers are in the
// reply, and what ends many requests at once is done in steps.
func TestScatterOfAHundred(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		names, services := make([]string, 100), map[string]broker.ServiceConfig{}
		for i := range names {
			names[i] = fmt.Sprint("s", i)
			services[names[i]] = broker.ServiceConfig{}
		}
		b := open(t, redis, func(o *broker.Options) { o.Services = services })
		hundred := func(stall time.Duration) broker.Record {
			return scatter(t, b, func(s *broker.Scatter) {
				s.StallTimeout, s.Legs = stall, nil
				for _, n := range names {
					s.Legs = append(s.Legs, broker.Submission{Service: n, Body: []byte(n)})
				}
			})
		}
		r := hundred(0)
		got, err := b.Claim(t.Context(), "w", names, len(names), time.Second)
		if err != nil || len(got) != len(names) {
			t.Fatal(len(got), err)
		}
		for _, d := range got {
			send(t, b, d, broker.WorkerReply{Type: "final", Body: d.Body})
		}
		settle(t, b)
		whole, err := b.Reply(t.Context(), r.ID)
		if err != nil || whole.Status != broker.Succeeded || whole.Events != 101 {
			t.Fatalf("%s with %d events, %v", whole.Status, whole.Events, err)
		}
		var set api.GatheredReplies
		if err := json.Unmarshal(whole.Reply.Body, &set); err != nil || len(set.Replies) != 100 || set.Succeeded != 100 {
			t.Errorf("%d replies of %d, %v", len(set.Replies), set.Succeeded, err)
		}

		for range 2 {
			hundred(time.Millisecond)
		}
		pass(t, b, hundred(time.Millisecond).Created.Add(time.Millisecond))
		var steps []int
		for more := true; more; {
			d, err := b.Decide(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			outcomes := 0
			for _, f := range d.Facts {
				if f.Kind == "outcome" {
					outcomes++
				}
			}
			steps, more = append(steps, outcomes), d.More
		}
		if slices.Max(steps) > 202 || slices.Max(steps) < 101 {
			t.Errorf("ended in steps of %v", steps)
		}
		nothingMoves(t, redis)
	})
}
