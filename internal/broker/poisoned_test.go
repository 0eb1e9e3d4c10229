package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// TestPoisonedKeys: where somebody wrote something else into the place of one of our keys,
// that harms what needs the key, and nothing else. A script that it stopped half-way
// would be stopped there again and again, and nothing of the partition be settled.
func TestPoisonedKeys(t *testing.T) {
	for name, poisoned := range map[string]struct {
		key     string // ID stands for that of the request
		service string
		kind    string // of the reply
		fails   string // what can't be said of the others: "listing"
	}{
		"record":           {key: "request:ID"},
		"record, retry":    {key: "request:ID", kind: "retry"},
		"plan":             {key: "plan"},
		"binding":          {key: "idempotency:"},
		"events":           {key: "events:ID", kind: "progress"},
		"history":          {key: "events:ID"},
		"reply":            {key: "reply:ID"},
		"dead letters":     {key: "dead:", kind: "failed"},
		"another's stream": {key: "queue:other", service: "other"},
		"another's line":   {key: "waiting:other", service: "other"},
		"callbacks":        {key: "callbacks"},
		"index":            {key: "listing:succeeded:", fails: "listing"},
		"counts":           {key: "counts"},
		"what is kept":     {key: "kept"},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
				for _, generally := range []bool{false, true} {
					redis.Client.FlushAll(t.Context())
					b := open(t, redis)
					if generally {
						broker.SettleGenerally(b)
					}
					other := poisoned.service
					if other == "" {
						other = "echo"
					}
					if err := b.Announce(t.Context(), map[string]broker.Announcement{"echo": {}, other: {}}); err != nil {
						t.Fatal(err)
					}
					var all []broker.Record
					var held []broker.Delivery
					for i := range 5 {
						r := submit(t, b, "x", func(s *broker.Submission) {
							if i == 2 {
								s.Service, s.IdempotencyKey = other, "key"
								s.Callback = &broker.Callback{URL: "https://example.com/", Events: []string{"succeeded", "progress"}}
							}
						})
						got, err := b.Claim(t.Context(), "w1", []string{r.Service}, 1, time.Second)
						if err != nil || len(got) != 1 {
							t.Fatal(got, err)
						}
						all, held = append(all, r), append(held, got...)
					}
					poison(t, redis, poisoned.key, all[2])
					for i, d := range held {
						reply := broker.WorkerReply{Type: "final", Body: []byte(strings.Repeat("r", 100))}
						if i == 2 && poisoned.kind != "" {
							reply.Type = poisoned.kind
						}
						send(t, b, d, reply)
						if reply.Type == "progress" {
							send(t, b, d, broker.WorkerReply{Type: "final"})
						}
					}
					settle(t, b)
					decide(t, b)
					settle(t, b)
					if n := redis.Client.XLen(t.Context(), "cc:{0}:replies").Val(); n > 0 {
						t.Errorf("%d replies are left", n)
					}
					entries, err := redis.Client.XRange(t.Context(), "cc:{0}:queue:echo", "-", "+").Result()
					if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].ID != held[2].Entry {
						t.Errorf("entries left: %v, %v", entries, err)
					}
					for i, r := range all {
						if i == 2 {
							continue
						}
						if now := status(t, b, r.ID); now.Status != broker.Succeeded {
							t.Errorf("generally %v: %d is %s", generally, i, now.Status)
						}
						_, due := redis.Client.ZScore(t.Context(), "cc:{0}:due", r.ID.String()).Result()
						_, open := redis.Client.ZScore(t.Context(), "cc:{0}:listing:open:", r.ID.String()).Result()
						_, listed := redis.Client.ZScore(t.Context(), "cc:{0}:listing:succeeded:", r.ID.String()).Result()
						if due == nil || open == nil || listed != nil && poisoned.fails != "listing" {
							t.Errorf("generally %v: %d is due: %v, listed as open: %v, by its outcome: %v", generally, i, due == nil, open == nil, listed == nil)
						}
					}
				}
			})
		})
	}
}

// poison writes something else where a key is.
func poison(t *testing.T, redis *redistest.Redis, key string, r broker.Record) {
	t.Helper()
	ctx := t.Context()
	if key == "plan" {
		if err := redis.Client.HSet(ctx, unfolded(ctx, t, redis.Client, r.ID.String()), "plan", "no plan").Err(); err != nil {
			t.Fatal(err)
		}
		return
	}
	key = "cc:{0}:" + strings.Replace(key, "ID", r.ID.String(), 1)
	if strings.HasSuffix(key, "idempotency:") || strings.HasSuffix(key, "dead:") {
		for _, known := range redis.Keys(t) {
			if strings.HasPrefix(known, key) {
				key = known
			}
		}
	}
	redis.Client.Del(ctx, key)
	if err := redis.Client.Set(ctx, key, "poison", 0).Err(); err != nil {
		t.Fatal(err)
	}
}

// TestPoisonedStreamHoldsNobodyUp who is due after one that can't be put on its stream; that
// one is tried again, and has its outcome by its clocks.
func TestPoisonedStreamHoldsNobodyUp(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		if err := b.Announce(t.Context(), map[string]broker.Announcement{"other": {}}); err != nil {
			t.Fatal(err)
		}
		var all []broker.Record
		for i := range 3 {
			all = append(all, submit(t, b, "x", func(s *broker.Submission) {
				s.Delay = time.Duration(i+1) * time.Millisecond
				if i == 0 {
					s.Service = "other"
				}
			}))
		}
		poison(t, redis, "queue:other", all[0])
		until(t, b, time.Now().Add(10*time.Millisecond))
		decide(t, b)
		for _, r := range all[1:] {
			if now := status(t, b, r.ID); now.Status != broker.Queued {
				t.Errorf("it is %s", now.Status)
			}
		}
		again, err := redis.Client.ZScore(t.Context(), "cc:{0}:due", all[0].ID.String()).Result()
		if now := status(t, b, all[0].ID); err != nil || now.Status != broker.Scheduled || again > float64(time.Now().Add(6*time.Second).UnixMilli()) {
			t.Errorf("it is %s, and due at %v, %v", now.Status, again, err)
		}
	})
}
