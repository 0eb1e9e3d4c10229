package main

import (
	"context"
	"fmt"
	"time"

	"github.com/coatcheck/coatcheck/internal/bench"
)

const (
	memoryRequests = 5000
	memoryLeft     = 5                // bytes a request: less than any key
	memoryKept     = 40 * time.Second // retention, above what it takes to answer all of them
	memoryPatience = 90 * time.Second
	settled        = 6 * time.Second // for what upkeep does after the last reply: who was accepted together waits for 5 s together
)

// memoryRow: what a request takes of Redis while it is pending, once it is
// answered, and after its retention.
func (l *lab) memoryRow(ctx context.Context) error {
	k, err := l.up(ctx, setup{
		kind: product, worker: true, what: "memory", more: fmt.Sprintf("    retention: %v\n", memoryKept),
		redis: "--slowlog-log-slower-than -1 --latency-tracking no", // they keep up to a MB of what was slow
	})
	if err != nil {
		return err
	}
	defer k.stop()
	k.worker.stop() // it has made what is made once
	if err := k.quiet(ctx); err != nil {
		return err
	}
	keys, base, err := k.memory()
	if err != nil {
		return err
	}
	if _, err := k.load(ctx, bench.Options{Via: bench.Submit, Body: small, Requests: memoryRequests, Duration: memoryPatience}); err != nil {
		return err
	}
	_, pending, err := k.memory()
	if err != nil {
		return err
	}
	each := func(bytes int64) float64 { return float64(bytes-base) / memoryRequests }
	l.bound("Redis memory per pending request, beside its body", atMost(800, " B"), atMost(500, " B"), each(pending)-small, "%d requests, bodies of %d B", memoryRequests, small)
	if err := k.launchWorker(); err != nil {
		return err
	}
	if err := k.drained(ctx, memoryPatience); err != nil {
		return err
	}
	k.worker.stop()
	if err := pause(ctx, settled); err != nil {
		return err
	}
	_, answered, err := k.memory()
	if err != nil {
		return err
	}
	l.bound("Redis memory per answered request, beside its reply", atMost(600, " B"), bound{}, each(answered)-small, "replies of %d B", small)
	l.say("  waiting for the end of the retention")
	left, after := 0, int64(0)
	for deadline := time.Now().Add(memoryKept + memoryPatience); time.Now().Before(deadline); {
		if left, after, err = k.memory(); err != nil {
			return err
		}
		if left <= keys && each(after) <= memoryLeft { // its tables shrink some seconds after its keys went
			break
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	l.bound("keys left in Redis after the retention", atMost(0, ""), bound{}, float64(max(0, left-keys)), "%d keys, %d before", left, keys)
	l.bound("Redis memory left of a request after the retention", atMost(memoryLeft, " B"), bound{}, max(0, each(after)), "above what it was before, which itself changes by some KB")
	return nil
}

// memory is how many keys Redis has, and its memory without that of its clients.
func (k *stack) memory() (keys int, bytes int64, err error) {
	info, err := k.redis.info()
	if err != nil {
		return 0, 0, err
	}
	return k.redis.number("DBSIZE"), info["used_memory"] - info["mem_clients_normal"], nil
}

// queues says how many entries a kind has that are not done: to be answered, and
// to be settled.
func (k *stack) queues() int {
	switch k.kind {
	case product:
		return k.redis.number("XLEN cc:{0}:queue:"+service) + k.redis.number("XLEN cc:{0}:replies")
	case limit:
		return k.redis.number("XLEN limit:queue") + k.redis.number("XLEN limit:replies")
	case peer:
		return k.redis.number("LLEN asynq:{"+service+"}:pending") + k.redis.number("LLEN asynq:{"+service+"}:active")
	}
	return 0
}

// drained waits until nothing is left to do.
func (k *stack) drained(ctx context.Context, patience time.Duration) error {
	for deadline := time.Now().Add(patience); k.queues() > 0; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %d entries are left after %v; the worker: %s", k.title(), k.queues(), patience, k.worker.said.String())
		}
		if err := pause(ctx, lookEvery); err != nil {
			return err
		}
	}
	return nil
}

// quiet waits until a first request and its worker have left nothing but what stays.
func (k *stack) quiet(ctx context.Context) error { return pause(ctx, settled) }

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
