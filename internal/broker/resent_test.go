package broker_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// TestDeletedStaysDeleted although its submit, whose answer was lost, is sent again: the
// client may have heard of it otherwise, and deleted it meanwhile. What is left of it is
// its nonce, for a minute.
func TestDeletedStaysDeleted(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		one := broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Body: []byte("x")}
		keyed := one
		keyed.IdempotencyKey = "key"
		for name, c := range map[string]struct {
			broker.Submission
			legs  []broker.Submission
			left  bool
			claim bool
		}{
			"plain": {Submission: one}, "general": {Submission: one, left: true}, "keyed": {Submission: keyed}, "claimed": {Submission: one, claim: true},
			"scattered": {Submission: one, legs: []broker.Submission{one, one}},
		} {
			var id correlation.ID
			said, err := broker.Resent(t.Context(), b, c.Submission, c.legs, c.left, func(accepted correlation.ID) {
				id = accepted
				if c.claim {
					claim(t, b)
				}
				if err := b.Delete(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			})
			if err != nil || said != "gone" {
				t.Errorf("%s: sent again, it is %q, %v", name, said, err)
			}
			if r, err := b.Status(t.Context(), id); !errors.Is(err, broker.ErrGone) {
				t.Errorf("%s: it is %s again, %v", name, r.Status, err)
			}
			key := "cc:{0}:request:" + id.String()
			left := slices.DeleteFunc(redis.Keys(t), func(k string) bool { return !strings.Contains(k, id.String()) })
			fields := redis.Client.HKeys(t.Context(), key).Val()
			if ttl := redis.Client.PTTL(t.Context(), key).Val(); !slices.Equal(left, []string{key}) || !slices.Equal(fields, []string{"nonce"}) || ttl <= 0 || ttl > time.Minute {
				t.Errorf("%s: there are %v, with %v, for %v", name, left, fields, ttl)
			}
			if n := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val() + redis.Client.ZCard(t.Context(), "cc:{0}:due").Val(); n > 0 {
				t.Errorf("%s: %d entries and decisions are left", name, n)
			}
		}
	})
}
