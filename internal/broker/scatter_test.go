package broker_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

var three = []string{"a", "b", "c"}

func withThree(o *broker.Options) {
	o.Services = map[string]broker.ServiceConfig{"a": {}, "b": {}, "c": {MaxAttempts: 2, Lease: 300 * time.Millisecond, Backoff: time.Millisecond}, "echo": {}}
}

func scatter(t testing.TB, b *broker.Broker, change ...func(*broker.Scatter)) broker.Record {
	t.Helper()
	r, replayed, err := b.Scatter(t.Context(), scattering(change...))
	if err != nil || replayed {
		t.Fatalf("scatter: replayed %v, %v", replayed, err)
	}
	return r
}

func scattering(change ...func(*broker.Scatter)) broker.Scatter {
	s := broker.Scatter{Submission: broker.Submission{Tenant: broker.DefaultTenant}}
	for _, service := range three {
		s.Legs = append(s.Legs, broker.Submission{Service: service, ContentType: "text/plain", Body: []byte("ask " + service)})
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

func least(n int) func(*broker.Scatter) { return func(s *broker.Scatter) { s.MinReplies = n } }

// claimOf has a worker of one service take its leg.
func claimOf(t testing.TB, b *broker.Broker, service string) broker.Delivery {
	t.Helper()
	got, err := b.Claim(t.Context(), "w-"+service, []string{service}, 1, time.Second)
	if err != nil || len(got) != 1 {
		t.Fatalf("claim %s: %d deliveries, %v", service, len(got), err)
	}
	return got[0]
}

func answer(t testing.TB, b *broker.Broker, d broker.Delivery, kind string) {
	t.Helper()
	send(t, b, d, broker.WorkerReply{Type: kind, ContentType: "text/plain", Body: []byte(d.Service + " says " + kind)})
}

func statuses(r broker.Record) (all []string) {
	for _, l := range r.Legs {
		all = append(all, string(l.Status))
	}
	return all
}

func wantLegs(t testing.TB, r broker.Record, outcome broker.Status, reason string, legs ...string) {
	t.Helper()
	if r.Status != outcome || r.Reason != reason || !slices.Equal(statuses(r), legs) {
		t.Errorf("%s %q %v, want %s %q %v", r.Status, r.Reason, statuses(r), outcome, reason, legs)
	}
}

// nothing is left of what moves: no entries, no lines, nothing due.
func nothingMoves(t testing.TB, redis *redistest.Redis) {
	t.Helper()
	for _, key := range redis.Keys(t) {
		n := int64(0)
		switch {
		case strings.Contains(key, ":queue:"):
			n = redis.Client.XLen(t.Context(), key).Val()
		case strings.Contains(key, ":waiting:"), strings.Contains(key, ":gate:"), strings.Contains(key, ":line:"), strings.HasSuffix(key, ":due"), strings.HasSuffix(key, ":replies"):
			n = 1
			if redis.Client.Type(t.Context(), key).Val() == "stream" {
				n = redis.Client.XLen(t.Context(), key).Val()
			}
		}
		if n > 0 {
			t.Errorf("%s is left", key)
		}
	}
}

// TestScatter: each service gets its own body under one ID, each answer is an event,
// and the reply is the set of them.
func TestScatter(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree)
		r := scatter(t, b)
		if r.Service != broker.AnyService || r.Status != broker.Queued || r.MinReplies != 3 {
			t.Fatalf("accepted as %+v", r)
		}
		var held []broker.Delivery
		for _, service := range three {
			d := claimOf(t, b, service)
			if d.ID != r.ID.String() || string(d.Body) != "ask "+service || d.Token == "" {
				t.Fatalf("delivered %+v", d)
			}
			held = append(held, d)
		}
		if now := status(t, b, r.ID); now.Status != broker.Running || now.Legs[1].Worker != "w-b" || now.Started.IsZero() {
			t.Errorf("claimed, it is %+v", now)
		}
		send(t, b, held[2], broker.WorkerReply{Type: "progress", ContentType: "text/plain", Body: []byte("half")})
		answer(t, b, held[2], "final")
		answer(t, b, held[0], "final")
		settle(t, b)
		if now := status(t, b, r.ID); now.Status != broker.Running || now.Events != 3 {
			t.Errorf("with two answers it is %s with %d events", now.Status, now.Events)
		}
		answer(t, b, held[1], "final")
		settle(t, b)
		now, events, first, err := b.Events(t.Context(), r.ID, 0)
		if err != nil || first != 1 {
			t.Fatal(first, err)
		}
		wantLegs(t, now, broker.Succeeded, "", "succeeded", "succeeded", "succeeded")
		var got []string
		for _, e := range events {
			d := broker.EventDocument(e)
			got = append(got, fmt.Sprintf("%d %s %s %s %d %s", d.Number, d.Type, d.Service, d.Status, d.StatusCode, e.Body))
		}
		want := []string{"1 progress c  0 half", "2 partial c succeeded 200 c says final", "3 partial a succeeded 200 a says final", "4 partial b succeeded 200 b says final"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		const set = `{"min_replies":3,"succeeded":3,"replies":[` +
			`{"service":"a","status":"succeeded","status_code":200,"content_type":"text/plain","encoding":"text","body":"a says final"},` +
			`{"service":"b","status":"succeeded","status_code":200,"content_type":"text/plain","encoding":"text","body":"b says final"},` +
			`{"service":"c","status":"succeeded","status_code":200,"content_type":"text/plain","encoding":"text","body":"c says final"}]}`
		if now.Reply == nil || string(now.Reply.Body) != set {
			t.Errorf("the reply is %+v", now.Reply)
		}
		whole, err := b.Reply(t.Context(), r.ID)
		if err != nil || string(whole.Reply.Body) != set {
			t.Errorf("the whole reply is %+v, %v", whole.Reply, err)
		}
		nothingMoves(t, redis)
		if again := settle(t, b); len(again) > 0 {
			t.Errorf("settled %v", again)
		}
	})
}

// TestScatterCompletes: as soon as enough succeeded, or can't any more; the rest is
// canceled, and its late and repeated answers change nothing.
func TestScatterCompletes(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree)
		r := scatter(t, b, least(1))
		first, second := claimOf(t, b, "b"), claimOf(t, b, "a")
		answer(t, b, first, "final")
		answer(t, b, first, "final")
		answer(t, b, second, "final")
		answer(t, b, second, "failed")
		settle(t, b)
		now := status(t, b, r.ID)
		wantLegs(t, now, broker.Succeeded, "", "canceled", "succeeded", "canceled")
		if now.Events != 2 || now.Legs[2].Reason != "scatter" {
			t.Errorf("%d events, %+v", now.Events, now.Legs)
		}
		nothingMoves(t, redis)

		r = scatter(t, b, least(2))
		answer(t, b, claimOf(t, b, "a"), "failed")
		settle(t, b)
		if now := status(t, b, r.ID); now.Status != broker.Running {
			t.Errorf("two may still succeed, and it is %s", now.Status)
		}
		answer(t, b, claimOf(t, b, "b"), "final")
		answer(t, b, claimOf(t, b, "c"), "failed")
		settle(t, b)
		now = status(t, b, r.ID)
		wantLegs(t, now, broker.Failed, "min_replies", "failed", "succeeded", "failed")
		for _, key := range redis.Keys(t) { // a leg is no dead letter: it keeps no body
			if strings.Contains(key, ":request:") && redis.Client.HExists(t.Context(), key, "body").Val() {
				t.Errorf("%s keeps its body", key)
			}
		}
		if now.Error.Code != "too_few_replies" || now.Reply.StatusCode != 502 || !json.Valid(now.Reply.Body) {
			t.Errorf("%+v %+v", now.Error, now.Reply)
		}
		nothingMoves(t, redis)
	})
}

// TestScatterAtItsDeadline: less will do where that was said, and only with a success.
func TestScatterAtItsDeadline(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree)
		for _, c := range []struct {
			partial, answered bool
			stall             time.Duration
			outcome           broker.Status
			reason, open      string
		}{
			{true, true, 0, broker.Succeeded, "partial", "timed_out"},
			{true, false, 0, broker.TimedOut, "total", "timed_out"},
			{false, true, 0, broker.TimedOut, "total", "timed_out"},
			{true, true, 100 * time.Millisecond, broker.Succeeded, "partial", "timed_out"},
			{false, true, 100 * time.Millisecond, broker.TimedOut, "stall", "timed_out"},
		} {
			r := scatter(t, b, func(s *broker.Scatter) {
				s.AcceptPartial, s.StallTimeout, s.Timeout = c.partial, c.stall, 300*time.Millisecond
				if c.stall > 0 {
					s.Timeout = time.Minute
				}
			})
			a := c.open
			if c.answered {
				answer(t, b, claimOf(t, b, "a"), "final")
				settle(t, b)
				a = "succeeded"
			}
			now := await(t, b, r.ID, c.outcome)
			wantLegs(t, now, c.outcome, c.reason, a, c.open, c.open)
			decide(t, b)
			if later := status(t, b, r.ID); later.Events != now.Events || !slices.Equal(statuses(later), statuses(now)) {
				t.Errorf("it changed to %+v", later)
			}
			nothingMoves(t, redis)
		}
	})
}

// TestScatterTakesLess: a success that can't be reached any more fails a scatter only
// where nothing less will do. Else it goes on until all have answered, so that what
// is there does not hang on who was first.
func TestScatterTakesLess(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree)
		for _, c := range []struct {
			kinds   [3]string
			outcome broker.Status
			reason  string
		}{
			{[3]string{"failed", "final", "final"}, broker.Succeeded, "partial"},
			{[3]string{"final", "final", "failed"}, broker.Succeeded, "partial"},
			{[3]string{"failed", "failed", "final"}, broker.Succeeded, "partial"},
			{[3]string{"failed", "failed", "failed"}, broker.Failed, "min_replies"},
		} {
			r := scatter(t, b, func(s *broker.Scatter) { s.AcceptPartial = true })
			var legs []string
			for i, service := range three {
				if now := status(t, b, r.ID); now.Status.Terminal() {
					t.Fatalf("%v: after %d answers it is %s", c.kinds, i, now.Status)
				}
				answer(t, b, claimOf(t, b, service), c.kinds[i])
				settle(t, b)
				legs = append(legs, map[string]string{"final": "succeeded", "failed": "failed"}[c.kinds[i]])
			}
			wantLegs(t, status(t, b, r.ID), c.outcome, c.reason, legs...)
			nothingMoves(t, redis)
		}
	})
}

// TestScatterLegIsTriedAgain: a leg goes the way of any request, by retry, by lapse
// of its lease, and taken back by a pause, and stays its own.
func TestScatterLegIsTriedAgain(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree)
		r := scatter(t, b)
		answer(t, b, claimOf(t, b, "a"), "final")
		if err := b.Pause(t.Context(), "b"); err != nil { // takes its entry back
			t.Fatal(err)
		}
		silent := claimOf(t, b, "c")
		settle(t, b)
		deadline := time.Now().Add(10 * time.Second)
		for {
			d, err := b.Lapse(t.Context(), 0, "c")
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Facts) > 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the lease never lapsed")
			}
		}
		if now := status(t, b, r.ID); now.Status != broker.Running || now.Legs[2].Attempt != 2 || now.Legs[1].Status != broker.Queued {
			t.Errorf("%s %+v", now.Status, now.Legs)
		}
		again := claimOf(t, b, "c")
		if again.Attempt != 2 || again.ID != r.ID.String() || string(again.Body) != "ask c" {
			t.Errorf("delivered %+v", again)
		}
		answer(t, b, silent, "final") // stale by now
		if kinds := settle(t, b); !slices.Equal(kinds, []string{"stale"}) {
			t.Errorf("settled %v", kinds)
		}
		if err := b.Resume(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		answer(t, b, claimOf(t, b, "b"), "final")
		answer(t, b, again, "retry") // its attempts are used up
		settle(t, b)
		now := status(t, b, r.ID)
		wantLegs(t, now, broker.Failed, "min_replies", "succeeded", "succeeded", "failed")
		if now.Legs[2].Reason != "max_attempts" {
			t.Errorf("%+v", now.Legs[2])
		}
		nothingMoves(t, redis)
	})
}

// TestScatterRunsForGood: a leg that goes back to where it waits does not take the
// whole along, and a worker that acknowledges by itself is found, and heard.
func TestScatterRunsForGood(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree)
		r := scatter(t, b)
		send(t, b, claimOf(t, b, "a"), broker.WorkerReply{Type: "retry", Delay: time.Minute})
		settle(t, b)
		if now := status(t, b, r.ID); now.Status != broker.Running || now.Legs[0].Status != broker.Scheduled {
			t.Errorf("after a retry it is %s, its leg %s", now.Status, now.Legs[0].Status)
		}
		d := claimOf(t, b, "b")
		if err := redis.Client.XAck(t.Context(), "cc:{0}:queue:b", "workers", d.Entry).Err(); err != nil {
			t.Fatal(err)
		}
		facts, _, err := b.Sweep(t.Context(), 0, "b", "")
		if err != nil || len(facts) != 1 || facts[0].Kind != "acked" {
			t.Errorf("swept %+v, %v", facts, err)
		}
		answer(t, b, d, "final")
		settle(t, b)
		if now := status(t, b, r.ID); now.Legs[1].Status != broker.Succeeded {
			t.Errorf("the leg is %+v", now.Legs[1])
		}
	})
}

// An idempotency key is the whole's: it does not send the legs to partitions of their own.
func TestScatterByKeyAmongPartitions(t *testing.T) {
	b := open(t, redistest.Embedded(t), func(o *broker.Options) {
		o.Partitions = 16
		o.Services = map[string]broker.ServiceConfig{"a": {}, "b": {}, "c": {}}
	})
	var first string
	for n := range 2 {
		s := broker.Scatter{Submission: broker.Submission{Tenant: broker.DefaultTenant, IdempotencyKey: "k"}}
		for _, service := range []string{"a", "b", "c"} {
			s.Legs = append(s.Legs, broker.Submission{Service: service, Body: []byte("x"), IdempotencyKey: "k"})
		}
		r, replayed, err := b.Scatter(t.Context(), s)
		if err != nil || replayed != (n == 1) {
			t.Fatalf("scatter %d: replayed %v, %v", n, replayed, err)
		}
		if n == 0 {
			first = r.ID.String()
		} else if r.ID.String() != first {
			t.Errorf("%s and %s for one key", first, r.ID)
		}
	}
}
