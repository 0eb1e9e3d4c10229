package broker_test

import (
	"testing"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

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
