package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Callbacks that are settled together count once each, also where some of them were
// settled before; and what they tell of is kept for its retention and no longer.
func TestDeliveredTogether(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		var all []broker.Record
		for _, reply := range []string{"short", strings.Repeat("long", 100), "third", "fourth"} {
			r := submit(t, b, "x", func(s *broker.Submission) {
				s.Retention = time.Hour
				s.Callback = &broker.Callback{URL: "https://example.com/", Events: []string{"succeeded", "progress"}}
			})
			d := claim(t, b)
			send(t, b, d, broker.WorkerReply{Type: "progress", Body: []byte("half")})
			send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte(reply)})
			settle(t, b)
			all = append(all, r)
		}
		var owed []broker.Intent
		for len(owed) < 2*len(all) { // the first call makes the group
			some, err := b.ClaimIntents(t.Context(), 10, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			owed = append(owed, some...)
		}
		left := func(want ...string) {
			t.Helper()
			for i, r := range all {
				key := "cc:{0}:request:" + r.ID.String()
				if got := redis.Client.HGet(t.Context(), key, "owed").Val(); got != want[i] {
					t.Errorf("%d: %s are owed, want %s", i, got, want[i])
				}
				for _, kept := range []string{key, "cc:{0}:events:" + r.ID.String(), "cc:{0}:reply:" + r.ID.String()} {
					ttl, err := redis.Client.PTTL(t.Context(), kept).Result()
					if err != nil || ttl < 0 && (i == 1 || !strings.Contains(kept, ":reply:")) || ttl > 0 && (ttl <= time.Hour) != (want[i] == "0") {
						t.Errorf("%d, %s owed: %s is kept for %v, %v", i, want[i], kept, ttl, err)
					}
				}
			}
		}
		settled := func(intents ...broker.Intent) {
			t.Helper()
			if err := broker.DeliveredTogether(b, intents...); err != nil {
				t.Fatal(err)
			}
		}
		left("2", "2", "2", "2")
		settled(owed[:3]...)
		left("0", "1", "2", "2")
		settled(owed[:5]...) // three of them again
		left("0", "0", "1", "2")
		settled(owed[5], owed[5])
		left("0", "0", "0", "2")
		settled(owed...)
		left("0", "0", "0", "0")
		settled(owed...)
		left("0", "0", "0", "0")
		if n := redis.Client.XLen(t.Context(), "cc:{0}:callbacks").Val(); n != 0 {
			t.Errorf("%d intents are left", n)
		}
	})
}

// An intent that somebody deleted takes no other along that is settled with it.
func TestDeliveredWithOneThatIsGone(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		if _, err := b.ClaimIntents(t.Context(), 10, time.Millisecond); err != nil { // makes the group
			t.Fatal(err)
		}
		var ids []string
		for range 3 {
			r := submit(t, b, "x", func(s *broker.Submission) {
				s.Callback = &broker.Callback{URL: "https://example.com/", Events: []string{"succeeded"}}
			})
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
			ids = append(ids, r.ID.String())
		}
		settle(t, b)
		owed, err := b.ClaimIntents(t.Context(), 10, time.Second)
		if err != nil || len(owed) != len(ids) {
			t.Fatalf("%d are owed, %v", len(owed), err)
		}
		if err := redis.Client.XDel(t.Context(), "cc:{0}:callbacks", owed[1].Entry).Err(); err != nil {
			t.Fatal(err)
		}
		if err := broker.DeliveredTogether(b, owed...); err != nil {
			t.Fatal(err)
		}
		for i, id := range ids {
			if got := recordOf(t.Context(), t, redis.Client, id)["owed"]; got != "0" && got != "" && i != 1 { // in an embedded Redis it is not pending any more
				t.Errorf("%d: %s are owed", i, got)
			}
		}
	})
}

// What stands in the place of a record takes no callback along that is settled with its own.
func TestDeliveredBesideWhatIsNoRecord(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		h, end := takes(b, 3)
		defer end()
		for range 3 {
			calledBack(t, b, broker.WorkerReply{})
		}
		first := "cc:{0}:request:" + h.taken[0].ID.String()
		redis.Client.Del(t.Context(), first)
		redis.Client.LPush(t.Context(), first, "no record")
		if err := broker.DeliveredTogether(b, h.taken...); err != nil {
			t.Error(err)
		}
		for _, i := range h.taken[1:] {
			if got, known := recordOf(t.Context(), t, redis.Client, i.ID.String())["owed"]; known {
				t.Errorf("%s are owed", got)
			}
		}
	})
}

// What an outcome's callback tells of is read although its retention is over.
func TestOwedAfterRetention(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		r := submit(t, b, "x", func(s *broker.Submission) {
			s.Retention = 30 * time.Millisecond
			s.Callback = &broker.Callback{URL: "https://example.com/", Events: []string{"succeeded"}}
		})
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("told")})
		settle(t, b)
		until(t, b, status(t, b, r.ID).Expires.Add(50*time.Millisecond))
		got, event, err := b.Owed(t.Context(), broker.Intent{ID: r.ID, Type: "succeeded", Number: 1, Attempt: 1})
		if err != nil || event != nil || got.Status != broker.Succeeded || string(got.Reply.Body) != "told" || got.Callback == nil {
			t.Errorf("%+v, %v, %v", got, event, err)
		}
	})
}

// What stays of a brief record is all but that it owed a callback: also where its reply
// says the same, or is kept beside it. It is kept for its retention, as its key is.
func TestDeliveredOfBriefRecords(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		if _, err := b.ClaimIntents(t.Context(), 10, time.Millisecond); err != nil { // makes the group
			t.Fatal(err)
		}
		replies := []string{"", "\nowed 1\n\nowed 1", strings.Repeat("long", 1000), "last"}
		var all []broker.Record
		for i, reply := range replies {
			r := submit(t, b, "x", func(s *broker.Submission) {
				s.Retention, s.IdempotencyKey = time.Hour, []string{"", "one", "two", ""}[i]
				s.Callback = &broker.Callback{URL: "https://example.com/", Events: []string{"succeeded"}}
			})
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte(reply)})
			settle(t, b)
			all = append(all, r)
		}
		text := func(i int) string {
			return redis.Client.Get(t.Context(), "cc:{0}:request:"+all[i].ID.String()).Val()
		}
		var before []string
		for i := range all {
			before = append(before, text(i))
			if !strings.Contains(before[i], "\nowed 1") {
				t.Fatalf("%d owes nothing: %q", i, before[i])
			}
		}
		owed, err := b.ClaimIntents(t.Context(), 10, time.Second)
		if err != nil || len(owed) != len(all) {
			t.Fatalf("%d are owed, %v", len(owed), err)
		}
		for range 2 { // it may come twice
			if err := broker.DeliveredTogether(b, owed[:3]...); err != nil {
				t.Fatal(err)
			}
		}
		for i := range all {
			want := before[i]
			if i < 3 {
				want = strings.Replace(want, "\nowed 1", "", 1)
			}
			if got := text(i); got != want {
				t.Errorf("%d: the record is %q, want %q", i, got, want)
			}
		}
		for key, ttl := range ttls(t, redis) {
			late := strings.HasSuffix(key, all[3].ID.String())
			if ttl > 0 && (ttl > time.Hour) != late && !strings.Contains(key, "aside") {
				t.Errorf("%s is kept for %v", key, ttl)
			}
		}
		if got := status(t, b, all[1].ID).Reply; got == nil || string(got.Body) != replies[1] {
			t.Errorf("the reply is %+v", got)
		}
	})
}

// ttls are those of all keys that will expire.
func ttls(t *testing.T, redis *redistest.Redis) map[string]time.Duration {
	t.Helper()
	found := map[string]time.Duration{}
	for _, key := range redis.Client.Keys(t.Context(), "cc:*").Val() {
		ttl, err := redis.Client.PTTL(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		if ttl > 0 {
			found[key] = ttl
		}
	}
	return found
}
