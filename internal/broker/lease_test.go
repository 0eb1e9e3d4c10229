package broker_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func TestLapsedLease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Services["echo"] = broker.ServiceConfig{Lease: 40 * time.Millisecond, MaxAttempts: 2}
		})
		r := submit(t, b, "body")
		old := claim(t, b)
		lapse := func() {
			t.Helper()
			for {
				d, err := b.Lapse(t.Context(), 0, "echo")
				if err != nil {
					t.Fatal(err)
				}
				if len(d.Facts) > 0 {
					return
				}
			}
		}
		lapse()
		d := claim(t, b)
		if d.Attempt != 2 || string(d.Body) != "body" || d.Token == old.Token {
			t.Errorf("second delivery %+v", d)
		}
		send(t, b, old, broker.WorkerReply{Type: "final", Body: []byte("from the dead")})
		if got := settle(t, b); !cmp.Equal(got, []string{"stale"}) {
			t.Errorf("reply of the old attempt: %v", got)
		}
		lapse()
		got := status(t, b, r.ID)
		if got.Status != broker.Failed || got.Error.Code != "lease_lapsed" {
			t.Errorf("after the last attempt: %+v", got)
		}
	})
}

func TestWorkerThatAcks(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Services["echo"] = broker.ServiceConfig{Lease: 300 * time.Millisecond, MaxAttempts: 2}
		})
		waiting := submit(t, b, "held by a worker that behaves")
		held := claim(t, b)
		sweep := func(wanted string) {
			t.Helper()
			for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
				send(t, b, held, broker.WorkerReply{Type: "heartbeat"})
				settle(t, b)
				after := ""
				for ok := true; ok; ok = after != "" {
					facts, next, err := b.Sweep(t.Context(), 0, "echo", after)
					if err != nil {
						t.Fatal(err)
					}
					if len(facts) > 0 {
						if facts[0].Kind != wanted {
							t.Fatalf("swept %+v, want %s", facts, wanted)
						}
						return
					}
					after = next
				}
			}
			t.Fatalf("no %s", wanted)
		}
		quick, slow := submit(t, b, "quick"), submit(t, b, "slow")
		d := claim(t, b)
		redis.Client.XAck(t.Context(), "cc:{0}:queue:echo", "workers", redis.Client.XInfoGroups(t.Context(), "cc:{0}:queue:echo").Val()[0].LastDeliveredID)
		sweep("acked")
		if got := status(t, b, quick.ID); got.Status != broker.Running {
			t.Errorf("acked by its worker: %s", got.Status)
		}
		send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("here")})
		settle(t, b)
		if got := status(t, b, quick.ID); got.Status != broker.Succeeded {
			t.Errorf("replied after its own ack: %s", got.Status)
		}
		claim(t, b)
		redis.Client.XAck(t.Context(), "cc:{0}:queue:echo", "workers", redis.Client.XInfoGroups(t.Context(), "cc:{0}:queue:echo").Val()[0].LastDeliveredID)
		sweep("acked")
		sweep("lapse")
		again := claim(t, b)
		if again.ID != slow.ID.String() || again.Attempt != 2 || string(again.Body) != "slow" {
			t.Errorf("given again: %+v", again)
		}
		if got := status(t, b, waiting.ID); got.Attempt != 1 || got.Status != broker.Running {
			t.Errorf("the worker that behaves lost its request: %+v", got)
		}
	})
}

func TestHeartbeatRenewsLease(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Services["echo"] = broker.ServiceConfig{Lease: 300 * time.Millisecond}
		})
		r := submit(t, b, "body")
		d := claim(t, b)
		begun := time.Now()
		for time.Since(begun) < 700*time.Millisecond {
			send(t, b, d, broker.WorkerReply{Type: "heartbeat"})
			settle(t, b)
			if got, err := b.Lapse(t.Context(), 0, "echo"); err != nil || len(got.Facts) > 0 {
				t.Fatalf("lapsed in spite of heartbeats: %v, %v", got.Facts, err)
			}
		}
		got := status(t, b, r.ID)
		if got.Status != broker.Running || got.Attempt != 1 || got.Started.After(begun.Add(100*time.Millisecond)) {
			t.Errorf("%s, attempt %d, started %v after the claim", got.Status, got.Attempt, got.Started.Sub(begun))
		}
	})
}
