package broker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// What is open never expires, whatever it is and whatever it is made of; once it has its
// outcome, nothing of it stays for ever.
func TestOnlyWhatIsOverExpires(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree, func(o *broker.Options) {
			o.Services["echo"] = broker.ServiceConfig{}
			o.Services["cached"] = broker.ServiceConfig{Coalesce: true}
		})
		keyed := func(key string) func(*broker.Submission) {
			return func(s *broker.Submission) { s.IdempotencyKey = key }
		}
		shared := func(s *broker.Submission) { s.Service = "cached" }
		dead := fails(t, b, "dead", "boom", keyed("dead"))
		redriven, _, err := b.Retry(t.Context(), dead.ID)
		if err != nil {
			t.Fatal(err)
		}
		again := claim(t, b)
		whole := scatter(t, b, least(3), func(s *broker.Scatter) { s.IdempotencyKey = "whole" })
		answer(t, b, claimOf(t, b, "a"), "final")
		send(t, b, claimOf(t, b, "b"), broker.WorkerReply{Type: "final", Body: []byte(strings.Repeat("long ", 20))})
		first, second := submit(t, b, "shared", shared, keyed("shared")), submit(t, b, "shared", shared)
		send(t, b, claimOf(t, b, "cached"), broker.WorkerReply{Type: "progress", Body: []byte("half")})
		submit(t, b, "later", keyed("later"), func(s *broker.Submission) { s.Delay = time.Hour })
		submit(t, b, "plain", keyed("plain"))
		plain := claim(t, b)
		send(t, b, plain, broker.WorkerReply{Type: "progress", Body: []byte("half")})
		settle(t, b)
		if again.ID != redriven.ID.String() {
			t.Errorf("claimed %s, not %s", again.ID, redriven.ID)
		}

		// kept looks at all that belongs to requests: whether it expires.
		kept := func(when string, want bool) (n int) {
			t.Helper()
			for _, key := range redis.Keys(t) {
				kind := strings.Split(key, ":")[2:]
				if len(kind) < 2 || strings.HasSuffix(key, dead.ID.String()) {
					continue
				}
				switch kind[0] {
				case "request", "events", "reply", "idempotency":
					if kind[0] == "idempotency" && redis.Client.Get(t.Context(), key).Val()[:36] == dead.ID.String() {
						continue
					}
					n++
					if left := redis.Client.PTTL(t.Context(), key).Val(); (left > 0) != want {
						t.Errorf("%s, %s expires in %v", when, key, left)
					}
				}
			}
			return n
		}
		if n := kept("open", false); n != 18 {
			t.Errorf("%d keys are of what is open", n)
		}
		open, err := b.List(t.Context(), broker.Query{Tenant: broker.DefaultTenant, Limit: 50})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range open.Records {
			if _, err := b.Cancel(t.Context(), r.ID); err != nil && !r.Status.Terminal() {
				t.Fatal(err)
			}
		}
		for _, r := range []broker.Record{whole, first, second} {
			if now := status(t, b, r.ID); now.Status != broker.Canceled {
				t.Errorf("%s is %s", r.ID, now.Status)
			}
		}
		kept("over", true)
	})
}

// A leg of which somebody deleted the whole is forgotten by itself.
func TestLegOfNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree)
		r := scatter(t, b, least(3))
		whole := "cc:{0}:request:" + r.ID.String()
		redis.Client.Del(t.Context(), whole)
		answer(t, b, claimOf(t, b, "a"), "final")
		send(t, b, claimOf(t, b, "b"), broker.WorkerReply{Type: "final", Body: []byte(strings.Repeat("long ", 20))})
		settle(t, b)
		for _, key := range []string{whole + "/1", whole + "/2", "cc:{0}:reply:" + r.ID.String() + "/2"} {
			if left := redis.Client.PTTL(t.Context(), key).Val(); left <= 0 {
				t.Errorf("%s expires in %v", key, left)
			}
		}
	})
}
