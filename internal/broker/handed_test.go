package broker_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// hooked is who takes callbacks that are handed over.
type hooked struct {
	room  int
	taken []broker.Intent
}

func takes(b *broker.Broker, room int) (h *hooked, end func()) {
	h = &hooked{room: room}
	return h, b.TakeIntents(func() int { return h.room - len(h.taken) }, func(i broker.Intent) { h.taken = append(h.taken, i) })
}

// calledBack is a request that wants callbacks of its success and has it, with a reply.
func calledBack(t *testing.T, b *broker.Broker, reply broker.WorkerReply, change ...func(*broker.Submission)) correlation.ID {
	t.Helper()
	r := submit(t, b, "x", append(change, func(s *broker.Submission) {
		s.Callback = &broker.Callback{URL: "https://example.com/", Events: []string{"succeeded"}}
	})...)
	reply.Type = "final"
	send(t, b, claim(t, b), reply)
	settle(t, b)
	return r.ID
}

// claimed are the callbacks that are on the stream.
func claimed(t *testing.T, b *broker.Broker) (all []broker.Intent) {
	t.Helper()
	for range 2 { // the first claim ever makes the group
		got, err := b.ClaimIntents(t.Context(), 100, time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, got...)
	}
	return all
}

// What is handed over is what anybody would read, and is owed until it was delivered.
func TestHandedOver(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		h, end := takes(b, 10)
		defer end()
		var ids []correlation.ID
		for _, kind := range []struct {
			reply  broker.WorkerReply
			change func(*broker.Submission)
		}{
			{broker.WorkerReply{Body: []byte(`{"a":1}`), ContentType: "application/json"}, func(*broker.Submission) {}},
			{broker.WorkerReply{}, func(s *broker.Submission) { s.Tenant, s.Tags = "other", []string{"a", "b"} }},
			{broker.WorkerReply{Body: []byte(strings.Repeat("x", 3000)), StatusCode: 404, Headers: map[string]string{"x-a": "b"}}, func(s *broker.Submission) {
				s.Traceparent, s.Priority = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", broker.PriorityHigh
			}},
			{broker.WorkerReply{Body: []byte("key")}, func(s *broker.Submission) { s.IdempotencyKey, s.Retention = "key", time.Hour }},
		} {
			ids = append(ids, calledBack(t, b, kind.reply, kind.change))
		}
		if got := claimed(t, b); len(got) > 0 || len(h.taken) != len(ids) {
			t.Fatalf("%d of %d are taken, and %v on the stream", len(h.taken), len(ids), got)
		}
		for n, i := range h.taken {
			got, event, err := b.Owed(t.Context(), i)
			if err != nil || event != nil || i.ID != ids[n] || i.Number != 1 || i.Attempt != 1 || i.Type != "succeeded" {
				t.Fatalf("%+v: %v, %v", i, event, err)
			}
			if diff := cmp.Diff(status(t, b, i.ID), got); diff != "" {
				t.Errorf("%d is read (-) and handed over (+) as:\n%s", n, diff)
			}
		}
		for range 2 { // it may come twice
			if err := broker.DeliveredTogether(b, h.taken...); err != nil {
				t.Fatal(err)
			}
		}
		for _, i := range h.taken {
			key := "cc:{0}:request:" + i.ID.String()
			text := redis.Client.Get(t.Context(), key).Val()
			kept, err := redis.Client.PTTL(t.Context(), key).Result()
			if err != nil || strings.Contains(text, "owed") || !strings.Contains(text, "succeeded") && text == "" || kept > 24*time.Hour {
				t.Errorf("kept for %v: %q", kept, text)
			}
		}
		if due := redis.Client.ZCard(t.Context(), "cc:{0}:due").Val(); due != 0 {
			t.Errorf("%d are due", due)
		}
	})
}

// A gateway that takes nothing more, or has no room, leaves callbacks to those that claim
// them; so does one that ended between.
func TestHandedOverAsLongAsThereIsRoom(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		h, end := takes(b, 2)
		var ids []string
		for range 3 {
			ids = append(ids, calledBack(t, b, broker.WorkerReply{}).String())
		}
		end()
		ids = append(ids, calledBack(t, b, broker.WorkerReply{}).String())
		var got []string
		for _, i := range append(h.taken, claimed(t, b)...) {
			got = append(got, i.ID.String())
		}
		if diff := cmp.Diff(ids, got); diff != "" || len(h.taken) != 2 {
			t.Errorf("%d were taken; all (-want +got):\n%s", len(h.taken), diff)
		}
	})
}

// What was handed over to nobody by the time it comes is on the stream at once.
func TestHandedOverToNobody(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		proxy := redis.Proxy(t)
		b := open(t, redis, func(o *broker.Options) { o.URL = proxy.URL })
		r := submit(t, b, "x", func(s *broker.Submission) {
			s.Callback = &broker.Callback{URL: "https://example.com/", Events: []string{"succeeded"}}
		})
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		end := b.TakeIntents(func() int { return 1 }, func(broker.Intent) { t.Error("it is taken after the end") })
		proxy.Lose(func(sent []byte) bool {
			if bytes.Contains(sent, []byte("evalsha\r\n")) {
				end() // while it is handed over
			}
			return false
		})
		settle(t, b)
		now, err := b.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		until(t, b, now.Add(time.Millisecond))
		decide(t, b)
		if got := claimed(t, b); len(got) != 1 || got[0].ID != r.ID || got[0].Attempt != 1 {
			t.Errorf("handed out again: %+v", got)
		}
	})
}

// One that is postponed, or that its gateway never came back about, is handed out as any
// other. Who says late that it was delivered settles it still.
func TestHandedOverAndNotDelivered(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		h, end := takes(b, 10)
		defer end()
		for range 3 {
			calledBack(t, b, broker.WorkerReply{})
		}
		later, back, lost := h.taken[0], h.taken[1], h.taken[2]
		for range 2 { // it may come twice
			if err := b.Postpone(t.Context(), later, 0); err != nil {
				t.Fatal(err)
			}
		}
		again := back
		again.Attempt--
		for range 2 {
			if err := b.Postpone(t.Context(), again, 0); err != nil {
				t.Fatal(err)
			}
		}
		due, err := redis.Client.ZRangeWithScores(t.Context(), "cc:{0}:due", 0, -1).Result()
		if err != nil || len(due) != 3 {
			t.Fatalf("%v are due, %v", due, err)
		}
		now, err := b.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if rest := time.UnixMilli(int64(due[2].Score)).Sub(now); rest > 10*time.Second || rest < 5*time.Second {
			t.Errorf("the lost one comes in %v", rest)
		}
		redis.Client.ZAddXX(t.Context(), "cc:{0}:due", owedSince1970(lost))
		until(t, b, now.Add(2*time.Millisecond))
		decide(t, b)
		got := claimed(t, b)
		attempts := map[correlation.ID]int{}
		for _, i := range got {
			attempts[i.ID] = i.Attempt
		}
		if diff := cmp.Diff(map[correlation.ID]int{later.ID: 2, back.ID: 1, lost.ID: 1}, attempts); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		if err := broker.DeliveredTogether(b, h.taken...); err != nil { // they are not theirs any more
			t.Fatal(err)
		}
		if n := redis.Client.XLen(t.Context(), "cc:{0}:callbacks").Val(); n != 3 {
			t.Errorf("%d are on the stream", n)
		}
		if err := broker.DeliveredTogether(b, got...); err != nil {
			t.Fatal(err)
		}
		if n := redis.Client.XLen(t.Context(), "cc:{0}:callbacks").Val() + redis.Client.ZCard(t.Context(), "cc:{0}:due").Val(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

func owedSince1970(i broker.Intent) redis.Z { return redis.Z{Score: 1, Member: i.Entry} }

// Who still tells of a callback keeps it, whether it was handed over or claimed; not what
// was settled meanwhile, nor what another has.
func TestKeep(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		h, end := takes(b, 10)
		defer end()
		wantKept := func(by *broker.Broker, i broker.Intent, want bool) {
			t.Helper()
			if kept, err := by.Keep(t.Context(), i); err != nil || kept != want {
				t.Errorf("kept %v, %v, want %v", kept, err, want)
			}
		}
		calledBack(t, b, broker.WorkerReply{})
		calledBack(t, b, broker.WorkerReply{})
		handed, later := h.taken[0], h.taken[1]
		redis.Client.ZAddXX(t.Context(), "cc:{0}:due", owedSince1970(handed))
		wantKept(b, handed, true)
		if score := redis.Client.ZScore(t.Context(), "cc:{0}:due", handed.Entry).Val(); score < 2 {
			t.Errorf("it is due since %v", score)
		}
		if err := b.Postpone(t.Context(), later, 0); err != nil {
			t.Fatal(err)
		}
		now, err := b.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		until(t, b, now.Add(2*time.Millisecond))
		decide(t, b)
		got := claimed(t, b)
		if len(got) != 1 {
			t.Fatalf("claimed %+v", got)
		}
		wantKept(b, got[0], true)
		wantKept(open(t, redis), got[0], false)
		if err := broker.DeliveredTogether(b, handed, got[0]); err != nil {
			t.Fatal(err)
		}
		wantKept(b, handed, false)
		wantKept(b, got[0], false)
		if n := redis.Client.XLen(t.Context(), "cc:{0}:callbacks").Val() + redis.Client.ZCard(t.Context(), "cc:{0}:due").Val(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}
