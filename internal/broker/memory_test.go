package broker_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A Redis that is full refuses new requests, and nothing else: what was accepted
// ends, is seen and called back, and gateways and workers may start anew. Only
// that makes room again.
func TestFullRedis(t *testing.T) {
	redis := redistest.Start(t)
	b := open(t, redis)
	callback := func(s *broker.Submission) {
		s.Callback = &broker.Callback{URL: "https://example.com/", Events: []string{"succeeded"}}
	}
	replied, retried, canceled := submit(t, b, "replied", callback), submit(t, b, "retried"), submit(t, b, "canceled")
	send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("done")})
	send(t, b, claim(t, b), broker.WorkerReply{Type: "retry", Delay: time.Millisecond})
	if err := redis.Client.ConfigSet(t.Context(), "maxmemory", "1mb").Err(); err != nil { // it holds more by itself
		t.Fatal(err)
	}
	if err := redis.Client.Set(t.Context(), "key", "value", 0).Err(); err == nil {
		t.Fatal("Redis is not full")
	}
	if _, _, err := b.Submit(t.Context(), broker.Submission{Service: "echo", Body: []byte("x")}); !errors.Is(err, broker.ErrMemory) {
		t.Errorf("submit: %v", err)
	}
	if _, _, err := b.Submit(t.Context(), broker.Submission{Service: "echo", Delay: time.Hour}); !errors.Is(err, broker.ErrMemory) {
		t.Errorf("submit for later: %v", err)
	}
	next := open(t, redis, func(o *broker.Options) { o.Partitions = 2 })
	if err := next.Announce(t.Context(), map[string]broker.Announcement{"echo": {}, "other": {Lease: time.Minute}}); err != nil {
		t.Errorf("a worker starts: %v", err)
	}
	if held, _, err := next.Hold(t.Context(), 0, time.Second); err != nil || !held {
		t.Errorf("a steward starts: %v, %v", held, err)
	}
	for name, id := range map[string]correlation.ID{"replied": replied.ID, "canceled": canceled.ID} {
		if _, err := next.Attach(t.Context(), id); err != nil {
			t.Errorf("wait for the one %s: %v", name, err)
		}
	}
	settle(t, next)
	if got := status(t, next, replied.ID); got.Status != broker.Succeeded {
		t.Errorf("replied: %s", got.Status)
	}
	if got := status(t, next, retried.ID); got.Status != broker.Queued || got.Attempt != 2 {
		t.Errorf("retried: %s, attempt %d", got.Status, got.Attempt)
	}
	if got, err := next.Cancel(t.Context(), canceled.ID); err != nil || got.Status != broker.Canceled {
		t.Errorf("canceled: %s, %v", got.Status, err)
	}
	if _, err := next.Reissue(t.Context(), 0); err != nil {
		t.Errorf("hand callbacks out again: %v", err)
	}
	owed, err := next.ClaimIntents(t.Context(), 2, time.Second) // one a partition
	if err != nil || len(owed) != 1 {
		t.Fatalf("callbacks: %v, %v", owed, err)
	}
	if err := next.Postpone(t.Context(), owed[0], time.Second); err != nil {
		t.Errorf("postpone a callback: %v", err)
	}
}

// So do those that share a run, scatters and batches, dead letters and the jobs that
// redrive them.
func TestFullRedisEndsAllKinds(t *testing.T) {
	redis := redistest.Start(t)
	b := open(t, redis, withThree, func(o *broker.Options) {
		o.Services["echo"] = broker.ServiceConfig{Coalesce: true, CacheTTL: time.Minute}
	})
	fails(t, b, "dead", "boom")
	fails(t, b, "dead too", "boom")
	o, err := b.OpenBatch(t.Context(), broker.DefaultTenant, "", nil, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	first, second := submit(t, b, "x", calling("progress", "succeeded")), submit(t, b, "x", func(s *broker.Submission) {
		s.Batch = &broker.Item{Batch: o.ID, Ends: o.Ends}
	})
	short, left := submit(t, b, "x", timeout(time.Millisecond)), submit(t, b, "x")
	partial := scatter(t, b, func(s *broker.Scatter) { s.AcceptPartial, s.StallTimeout = true, 10*time.Millisecond })
	job, err := b.RedriveAll(t.Context(), broker.RedriveFilter{DeadFilter: broker.DeadFilter{Tenant: broker.DefaultTenant}})
	if err != nil {
		t.Fatal(err)
	}
	d := claim(t, b)
	send(t, b, d, broker.WorkerReply{Type: "progress", Body: []byte("half")})
	pass(t, b, short.Deadline)
	send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("done")})
	answer(t, b, claimOf(t, b, "a"), "final")
	if _, err := b.ClaimIntents(t.Context(), 1, time.Millisecond); err != nil { // makes the group
		t.Fatal(err)
	}
	if err := redis.Client.ConfigSet(t.Context(), "maxmemory", "1mb").Err(); err != nil { // it holds more by itself
		t.Fatal(err)
	}
	if _, err := b.Batch(t.Context(), o.ID, broker.BatchAsk{Attach: true}); err != nil {
		t.Errorf("follow a batch: %v", err)
	}
	if _, err := b.Cancel(t.Context(), left.ID); err != nil {
		t.Errorf("leave a shared run: %v", err)
	}
	settle(t, b)
	for _, id := range []correlation.ID{first.ID, second.ID} {
		if r := status(t, b, id); r.Status != broker.Succeeded || replyOf(r) != "done" {
			t.Errorf("it is %+v", r)
		}
	}
	if r := status(t, b, short.ID); r.Status != broker.TimedOut {
		t.Errorf("the short one is %s", r.Status)
	}
	wantLegs(t, await(t, b, partial.ID, broker.Succeeded), broker.Succeeded, "partial", "succeeded", "timed_out", "timed_out")
	want(t, counts(t, b, o.ID), "1 accepted, 0 open, 1 succeeded, 0 failed, 0 canceled, complete false")
	if _, _, err := b.Submit(t.Context(), broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", ContentType: "text/plain", Body: []byte("x")}); !errors.Is(err, broker.ErrMemory) {
		t.Errorf("one that a cached reply would answer: %v", err)
	}
	intents, err := b.ClaimIntents(t.Context(), 5, time.Second)
	if err != nil || len(intents) != 2 {
		t.Errorf("owed: %v, %v", intents, err)
	}
	for _, i := range intents {
		if err := b.Delivered(t.Context(), i); err != nil {
			t.Errorf("settle a callback: %v", err)
		}
	}
	if _, err := b.Pursue(t.Context(), 0); err != nil {
		t.Errorf("a job waits: %v", err)
	}
	if job, err = b.StopRedrive(t.Context(), job.ID); err != nil || job.State != broker.RedriveCanceled {
		t.Errorf("stop a job: %+v, %v", job, err)
	}
	if n, _, err := b.Purge(t.Context(), broker.DeadFilter{Tenant: broker.DefaultTenant}, 10); err != nil || n != 3 {
		t.Errorf("purged %d, %v", n, err)
	}
	for _, id := range []correlation.ID{first.ID, second.ID, left.ID, partial.ID} {
		if err := b.Delete(t.Context(), id); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	for _, key := range redis.Keys(t) {
		if strings.Contains(key, ":request:") && !deleted(t, redis, key) || strings.Contains(key, ":content:") || strings.Contains(key, ":dead:") || strings.HasSuffix(key, ":graves") {
			t.Errorf("%s is left", key)
		}
	}
}

// While Redis is full no worker can say that it lives: what it has is not taken away.
func TestFullRedisTakesNothingAway(t *testing.T) {
	redis := redistest.Start(t)
	b := open(t, redis, func(o *broker.Options) {
		o.Services["echo"] = broker.ServiceConfig{Lease: time.Millisecond}
	})
	if err := redis.Client.XAdd(t.Context(), xadd("cc:{0}:queue:echo", "none", "of ours")).Err(); err != nil { // an orphan, which is looked at first
		t.Fatal(err)
	}
	r := submit(t, b, "x")
	if d, err := b.Claim(t.Context(), "w", []string{"echo"}, 2, time.Second); err != nil || len(d) != 2 {
		t.Fatalf("claimed %d, %v", len(d), err)
	}
	limit := func(most string) {
		if err := redis.Client.ConfigSet(t.Context(), "maxmemory", most).Err(); err != nil {
			t.Fatal(err)
		}
	}
	limit("1mb") // it holds more by itself
	for range 3 {
		now, err := b.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		pass(t, b, now.Add(2*time.Millisecond)) // past the lease
		if _, err := b.Lapse(t.Context(), 0, "echo"); !errors.Is(err, broker.ErrMemory) {
			t.Errorf("lapse: %v", err)
		}
		if _, _, err := b.Sweep(t.Context(), 0, "echo", ""); !errors.Is(err, broker.ErrMemory) {
			t.Errorf("sweep: %v", err)
		}
	}
	if got := status(t, b, r.ID); got.Status != broker.Running || got.Attempt != 1 {
		t.Errorf("it is %s, attempt %d", got.Status, got.Attempt)
	}
	limit("0")
	if _, err := b.Lapse(t.Context(), 0, "echo"); err != nil {
		t.Errorf("lapse: %v", err)
	}
	if got := status(t, b, r.ID); got.Status != broker.Queued || got.Attempt != 2 {
		t.Errorf("with room again it is %s, attempt %d", got.Status, got.Attempt)
	}
}

// Who waits no longer is let go also while Redis is full.
func TestDetachWhileRedisIsFull(t *testing.T) {
	redis := redistest.Start(t)
	b := open(t, redis)
	id := submit(t, b, "x").ID
	if _, err := b.Attach(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := redis.Client.ConfigSet(t.Context(), "maxmemory", "1mb").Err(); err != nil { // it holds more by itself
		t.Fatal(err)
	}
	if err := b.Detach(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if f := recordOf(t.Context(), t, redis.Client, id.String()); f["waiters"] != "" || f["status"] != "queued" {
		t.Errorf("it is %v", f)
	}
}
