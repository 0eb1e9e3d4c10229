package broker_test

import (
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func runOf(r broker.Record) string { return "cc:{0}:request:" + r.ID.String() + "/0" }

// A shared run can be had over HTTP as any work: held, put back, handed over, and
// answered by its token.
func TestSharePulled(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		first, second := submit(t, b, "x"), submit(t, b, "x")
		held := reserve(t, b)
		if r := status(t, b, second.ID); r.Status != broker.Queued {
			t.Errorf("held, it is %s", r.Status)
		}
		if err := b.Unclaim(t.Context(), held); err != nil {
			t.Fatal(err)
		}
		handed := entrust(t, b, reserve(t, b))
		if len(handed) != 1 {
			t.Fatal("it was not handed over")
		}
		token := broker.ClaimToken(handed[0])
		for _, kind := range []string{"progress", "final"} {
			if id, _, err := b.Answer(t.Context(), token, broker.WorkerReply{Type: kind, Body: []byte(kind)}); err != nil || id != first.ID {
				t.Errorf("%s of %s: %v", kind, id, err)
			}
		}
		settle(t, b)
		for _, id := range []correlation.ID{first.ID, second.ID} {
			if r := status(t, b, id); r.Status != broker.Succeeded || replyOf(r) != "final" || r.Attempt != 1 || r.Events != 2 {
				t.Errorf("it is %+v", r)
			}
		}
	})
}

// A time to cache that is none, or beyond all measure, stops nobody's reply.
func TestStrangeCacheTTL(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		for ttl, next := range map[string]string{"0.4": broker.CacheMiss, "-5": broker.CacheHit, "nan": broker.CacheHit, "999999999999999": broker.CacheHit} {
			first, second := submit(t, b, ttl), submit(t, b, ttl)
			d := claim(t, b)
			if err := redis.Client.Do(t.Context(), "XADD", d.ReplyTo, "*", "token", d.Token, "type", "final", "cache_ttl", ttl, "body", "r").Err(); err != nil {
				t.Fatal(err)
			}
			settle(t, b)
			for _, id := range []correlation.ID{first.ID, second.ID} {
				if r := status(t, b, id); r.Status != broker.Succeeded {
					t.Errorf("with %s it is %s", ttl, r.Status)
				}
			}
			if left := redis.Client.PTTL(t.Context(), runOf(first)).Val(); left <= 0 || left > 8*24*time.Hour {
				t.Errorf("with %s its run is kept for %s", ttl, left)
			}
			if r := submit(t, b, ttl); r.Cache != next {
				t.Errorf("after %s the next is a %s", ttl, r.Cache)
			} else if r.Cache == broker.CacheMiss {
				send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
			}
		}
	})
}
