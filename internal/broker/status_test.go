package broker_test

import (
	"errors"
	"testing"

	"github.com/coatcheck/coatcheck/internal/broker"
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
