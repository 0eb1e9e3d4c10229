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
			o.Services["echo"] = broker.ServiceConfig{Lease: time.Minute, MaxAttempts: 2}
		})
		waiting := submit(t, b, "held by a worker that behaves")
		held := claim(t, b)
		sweep := func(wanted ...string) {
			t.Helper()
			taken(t, redis, held, time.Now().Add(-2*time.Minute)) // long silent
			send(t, b, held, broker.WorkerReply{Type: "heartbeat"})
			settle(t, b)
			var kinds []string
			for after, ok := "", true; ok; ok = after != "" {
				facts, next, err := b.Sweep(t.Context(), 0, "echo", after)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range facts {
					kinds = append(kinds, f.Kind)
				}
				after = next
			}
			if !cmp.Equal(kinds, wanted) {
				t.Fatalf("swept %v, want %v", kinds, wanted)
			}
		}
		quick, slow := submit(t, b, "quick"), submit(t, b, "slow")
		d := claim(t, b)
		redis.Client.XAck(t.Context(), "cc:{0}:queue:echo", "workers", d.Entry)
		sweep("acked")
		if got := status(t, b, quick.ID); got.Status != broker.Running {
			t.Errorf("acked by its worker: %s", got.Status)
		}
		send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("here")})
		settle(t, b)
		if got := status(t, b, quick.ID); got.Status != broker.Succeeded {
			t.Errorf("replied after its own ack: %s", got.Status)
		}
		redis.Client.XAck(t.Context(), "cc:{0}:queue:echo", "workers", claim(t, b).Entry)
		sweep("acked")
		sweep() // it keeps its lease from when it was found
		redis.Client.HIncrBy(t.Context(), "cc:{0}:request:"+slow.ID.String(), "acked", -time.Minute.Milliseconds())
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
			o.Services["echo"] = broker.ServiceConfig{Lease: time.Minute}
		})
		r := submit(t, b, "body")
		d := claim(t, b)
		claimed, err := b.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		pass(t, b, claimed.Add(5*time.Millisecond))
		for range 3 {
			send(t, b, d, broker.WorkerReply{Type: "heartbeat"})
			settle(t, b)
			if got, err := b.Lapse(t.Context(), 0, "echo"); err != nil || len(got.Facts) > 0 {
				t.Fatalf("lapsed in spite of heartbeats: %v, %v", got.Facts, err)
			}
			taken(t, redis, d, time.Now().Add(-2*time.Minute)) // long silent
		}
		if got := status(t, b, r.ID); got.Status != broker.Running || got.Attempt != 1 || got.Started.After(claimed.Add(time.Millisecond)) { // it is known to the millisecond
			t.Errorf("%s, attempt %d, started %v after the claim", got.Status, got.Attempt, got.Started.Sub(claimed))
		}
		if got, err := b.Lapse(t.Context(), 0, "echo"); err != nil || len(got.Facts) != 1 || got.Facts[0].Kind != "lapse" {
			t.Errorf("silent, and %v, %v", got.Facts, err)
		}
	})
}
