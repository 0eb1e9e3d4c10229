package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// pair is a server and one that follows it.
func pair(t *testing.T) (master, replica *redistest.Redis) {
	t.Helper()
	master = redistest.Start(t, everysec...)
	host, port, err := net.SplitHostPort(strings.TrimPrefix(master.URL, "redis://"))
	if err != nil {
		t.Fatal(err)
	}
	return master, redistest.Start(t, append(everysec, "--replicaof", host, port)...)
}

// openReplicated waits for the replica, as the start of a gateway does.
func openReplicated(t *testing.T, master *redistest.Redis, wait time.Duration) *broker.Broker {
	t.Helper()
	for tries := 0; ; tries++ {
		o := broker.Options{URL: master.URL, Services: map[string]broker.ServiceConfig{"echo": {}}, Logger: slog.New(slog.DiscardHandler)}
		o.Durability = broker.Durability{Mode: broker.Replicated, Replicas: 1, Wait: wait}
		b, err := broker.Open(t.Context(), o)
		if err == nil {
			t.Cleanup(func() { b.Close() })
			return b
		}
		if tries == 0 && (!errors.Is(err, broker.ErrUndurable) || !errors.Is(err, broker.ErrUnavailable)) {
			t.Errorf("a replica may come yet, but: %v", err)
		}
		if t.Context().Err() != nil || tries > 1000 {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond) // the replica follows when it follows
	}
}

func TestReplicatedNeedsReplicas(t *testing.T) {
	_, err := broker.Open(t.Context(), broker.Options{URL: redistest.Start(t, everysec...).URL, Durability: broker.Durability{Mode: broker.Replicated, Replicas: 2}})
	if !errors.Is(err, broker.ErrUndurable) || !strings.Contains(err.Error(), "replicated(2) needs that many replicas of Redis, and 0 follow") {
		t.Errorf("%v", err)
	}
	for _, d := range []broker.Durability{{Mode: broker.Replicated}, {Mode: broker.Local, Replicas: 1}, {Mode: broker.Local, Wait: time.Hour}} {
		if _, err := broker.Open(t.Context(), broker.Options{URL: "redis://127.0.0.1:1", Durability: d}); err == nil || errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

const patient = 2 * time.Second // on a busy machine a replica needs its time

// Nothing counts as accepted that only the master has, also where an earlier call
// wrote it; it does once the replica has it.
func TestReplicated(t *testing.T) {
	master, replica := pair(t)
	b := openReplicated(t, master, patient)
	other := openReplicated(t, master, patient) // on connections of its own
	dead := fails(t, b, "dead", "boom")
	status(t, other, dead.ID) // confirmed, as far as the other one knows
	old := submit(t, b, "old")

	replica.Pause()
	unknown := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, broker.ErrUnknownOutcome) {
			t.Errorf("%s, without a replica: %v", what, err)
		}
	}
	keyed := broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Body: []byte("x"), IdempotencyKey: "k"}
	both := broker.Scatter{Submission: broker.Submission{Tenant: broker.DefaultTenant, IdempotencyKey: "s"}, Legs: []broker.Submission{{Service: "echo"}}}
	calls := map[string]func(*broker.Broker) (correlation.ID, error){
		"submit": func(b *broker.Broker) (correlation.ID, error) {
			r, _, err := b.Submit(t.Context(), keyed)
			return r.ID, err
		},
		"scatter": func(b *broker.Broker) (correlation.ID, error) {
			r, _, err := b.Scatter(t.Context(), both)
			return r.ID, err
		},
		"batch": func(b *broker.Broker) (correlation.ID, error) {
			o, err := b.OpenBatch(t.Context(), broker.DefaultTenant, "b", []byte("payload"), 1, nil)
			return o.ID, err
		},
		"retry": func(b *broker.Broker) (correlation.ID, error) {
			r, _, err := b.Retry(t.Context(), dead.ID)
			return r.ID, err
		},
	}
	var all sync.WaitGroup // each waits for the replica
	for name, call := range calls {
		all.Go(func() {
			_, err := call(b)
			unknown(name, err)
			_, err = call(other)
			unknown(name+", once more", err)
		})
	}
	all.Go(func() {
		_, err := b.Cancel(t.Context(), old.ID)
		unknown("cancel", err)
	})
	all.Go(func() {
		_, err := b.RedriveAll(t.Context(), broker.RedriveFilter{DeadFilter: broker.DeadFilter{Tenant: broker.DefaultTenant}, Status: broker.TimedOut})
		unknown("redrive all", err)
	})
	all.Wait()
	if got, err := other.Status(t.Context(), old.ID); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("an outcome that only the master has is shown: %s, %v", got.Status, err)
	}
	if got, err := b.Status(t.Context(), dead.ID); err != nil || got.Status != broker.Failed {
		t.Errorf("an outcome that the replica has is not shown: %s, %v", got.Status, err)
	}

	replica.Resume()
	for name, call := range calls {
		first, err := call(b)
		again, err2 := call(other)
		if err != nil || err2 != nil || first != again {
			t.Errorf("%s, with the replica: %s and %s, %v, %v", name, first, again, err, err2)
		}
	}
	if got := status(t, other, old.ID); got.Status != broker.Canceled {
		t.Errorf("it is %s", got.Status)
	}
}

// Outcomes, their callbacks and events are shown once the replica has them.
func TestReplicatedShows(t *testing.T) {
	master, replica := pair(t)
	b := openReplicated(t, master, patient)
	r := submit(t, b, "x", calling("progress", "succeeded"))
	d := claim(t, b)
	if _, err := b.ClaimIntents(t.Context(), 1, time.Millisecond); err != nil { // makes the group
		t.Fatal(err)
	}
	replica.Pause()
	send(t, b, d, broker.WorkerReply{Type: "progress", Body: []byte("half")})
	settle(t, b)
	if got := status(t, b, r.ID); got.Status != broker.Running { // of itself no promise
		t.Errorf("it is %s", got.Status)
	}
	if _, events, _, err := b.Events(t.Context(), r.ID, 0); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("events: %v, %v", events, err)
	}
	send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("done")})
	settle(t, b)
	owed, err := b.ClaimIntents(t.Context(), 1, time.Second)
	if err != nil || len(owed) != 1 {
		t.Fatalf("%v, %v", owed, err)
	}
	var all sync.WaitGroup // each waits for the replica
	for what, read := range map[string]func() error{
		"status":   func() error { _, err := b.Status(t.Context(), r.ID); return err },
		"wait":     func() error { _, err := b.Attach(t.Context(), r.ID); return err },
		"reply":    func() error { _, err := b.Reply(t.Context(), r.ID); return err },
		"events":   func() error { _, _, _, err := b.Events(t.Context(), r.ID, 1); return err },
		"callback": func() error { _, _, err := b.Owed(t.Context(), owed[0]); return err },
	} {
		all.Go(func() {
			if err := read(); !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("%s is shown before the replica has it: %v", what, err)
			}
		})
	}
	all.Wait()
	replica.Resume()
	if got := status(t, b, r.ID); got.Status != broker.Succeeded {
		t.Errorf("it is %s", got.Status)
	}
	replica.Pause()
	if got := status(t, b, r.ID); got.Status != broker.Succeeded { // it was confirmed
		t.Errorf("it is %s", got.Status)
	}
}

// The master dies under load while its replica lags, and the replica takes over: all
// that was accepted is there, and a repeat finds it.
func TestFailoverLosesNothingAccepted(t *testing.T) {
	master, replica := pair(t)
	b := openReplicated(t, master, 100*time.Millisecond)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var accepted sync.Map
	var all sync.WaitGroup
	var n, unsure, lagging atomic.Int64
	enough, lags := make(chan struct{}), make(chan struct{})
	var behind atomic.Bool
	for client := range 8 {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("%d-%d", client, i)
				r, _, err := b.Submit(ctx, broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Body: []byte(key), IdempotencyKey: key})
				if behind.Load() && lagging.Add(1) == 24 {
					close(lags)
				}
				if err != nil {
					unsure.Add(1)
					continue
				}
				accepted.Store(key, r.ID)
				if n.Add(1) == 1000 {
					close(enough)
				}
			}
		})
	}
	<-enough
	replica.Pause()
	behind.Store(true)
	<-lags // the master has taken some that the replica has not
	master.Kill()
	stop()
	all.Wait()
	replica.Resume()
	if err := replica.Client.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	after := open(t, replica)
	count := 0
	accepted.Range(func(key, id any) bool {
		count++
		if _, err := after.Status(t.Context(), id.(correlation.ID)); err != nil {
			t.Errorf("%s was accepted as %s: %v", key, id, err)
		}
		r, replayed, err := after.Submit(t.Context(), broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Body: []byte(key.(string)), IdempotencyKey: key.(string)})
		if err != nil || !replayed || r.ID != id {
			t.Errorf("%s again: %s, replayed %v, %v; want %s", key, r.ID, replayed, err, id)
		}
		return !t.Failed()
	})
	t.Logf("%d accepted, %d answered with unknown", count, unsure.Load())
}
