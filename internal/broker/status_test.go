package broker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A Redis that takes no writes, since its replicas or its disk are missing, is still
// read: only who has to be registered hears that it can't be.
func TestReadsWithoutWrites(t *testing.T) {
	redis := redistest.Start(t)
	b := open(t, redis)
	over, queued := submit(t, b, "x").ID, submit(t, b, "x").ID
	send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
	settle(t, b)
	if err := redis.Client.ConfigSet(t.Context(), "min-replicas-to-write", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if r, err := b.Attach(t.Context(), over); err != nil || r.Status != broker.Succeeded {
		t.Errorf("attach to what is over: %s, %v", r.Status, err)
	}
	errs := broker.ReadTogether(b, queued, over, queued)
	if errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], broker.ErrUnavailable) {
		t.Errorf("read together: %v", errs)
	}
}

// However many read replies of the largest size at once, a script answers no more of them
// than it may hold in memory; all are read.
func TestManyLargeAnswers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		const all, large = 40, 64 << 10
		b := open(t, redis)
		var ids []correlation.ID
		var want []string
		for n := range all {
			body := strings.Repeat(fmt.Sprint(n%10), large-n)
			r := submit(t, b, "x")
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte(body)})
			ids, want = append(ids, r.ID), append(want, body)
		}
		settle(t, b)
		got, each, err := broker.AllAsked(t.Context(), b, ids)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d of %d are read, %v", len(got), all, err)
		}
		if most := 1<<20/(large-all) + 1; slices.Max(each) > most || len(each) != (all+most-1)/most {
			t.Errorf("%v were answered by a script each, want %d at most", each, most)
		}
	})
}
