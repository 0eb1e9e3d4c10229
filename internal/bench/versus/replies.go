package main

import (
	"context"
	"time"

	"github.com/coatcheck/coatcheck/internal/bench"
)

// Backlogs for each second that a measurement lasts. That of the limit is larger,
// so that it lasts at all.
const (
	drainEach  = 2500
	drainLimit = 3 * drainEach
)

// drainRow: how fast one worker process empties a backlog, until the last outcome
// is stored.
func (l *lab) drainRow(ctx context.Context) error {
	f, err := l.inTurn(ctx, "drain", []setup{{kind: limit}, {kind: product}, {kind: peer}}, func(ctx context.Context, k *stack) (sample, error) {
		n := int(l.duration.Seconds() * drainEach)
		if k.kind == limit {
			n = int(l.duration.Seconds() * drainLimit)
		}
		if _, err := k.load(ctx, bench.Options{Via: bench.Submit, Body: small, Requests: n, Duration: drainPatience}); err != nil {
			return sample{}, err
		}
		return k.drain(ctx, n)
	})
	if err != nil {
		return err
	}
	l.rates("backlog drained by one worker process, of the limit", "limit", atLeast(0.35, ""), bound{}, f)
	l.rates("backlog drained by one worker process, of the asynq peer", "peer", atLeast(4, ""), bound{}, f)
	return nil
}

const drainPatience = 2 * time.Minute

// drain starts the worker and measures from when a twentieth is done, so that its
// start does not count, until all is. Where that was seen too late, for want of a core,
// its start does count: of what is left the worker may have done its part already.
func (k *stack) drain(ctx context.Context, n int) (sample, error) {
	before, began, left := k.read(), time.Now(), n
	if err := k.launchWorker(); err != nil {
		return sample{}, err
	}
	var seen int
	err := k.worker.until(ctx, "its first replies", func() bool {
		seen = k.queues()
		return seen < n-n/20
	})
	if err != nil {
		return sample{}, err
	}
	if seen > n*3/4 {
		before, began, left = k.read(), time.Now(), seen
	}
	if err := k.drained(ctx, drainPatience); err != nil {
		return sample{}, err
	}
	took := time.Since(began)
	s := k.read().minus(before, float64(left))
	s.rate = float64(left) / took.Seconds()
	return s, nil
}

// withWorker are the three that answer requests.
var withWorker = []setup{{kind: limit, worker: true}, {kind: product, worker: true}, {kind: peer, worker: true}}

// replies measures exchanges that end with the reply seen.
func (l *lab) replies(ctx context.Context, what string, via bench.Via) (found, error) {
	return l.inTurn(ctx, what, withWorker, func(ctx context.Context, k *stack) (sample, error) {
		return k.load(ctx, bench.Options{Via: via, Body: small})
	})
}

// waitRow: replies a second by long-poll.
func (l *lab) waitRow(ctx context.Context) error { return l.repliesRow(ctx, "long-poll", bench.Wait) }

// sseRow: replies a second by SSE.
func (l *lab) sseRow(ctx context.Context) error { return l.repliesRow(ctx, "SSE", bench.SSE) }

func (l *lab) repliesRow(ctx context.Context, what string, via bench.Via) error {
	f, err := l.replies(ctx, what, via)
	if err != nil {
		return err
	}
	l.rates(what+" replies/s, of the limit", "limit", atLeast(0.7, ""), bound{}, f)
	l.rates(what+" replies/s, of the asynq peer", "peer", atLeast(3, ""), bound{}, f)
	return nil
}

// webhookRow: callbacks a second. The gateway's and the peer's are signed, and
// stored before they are sent; the limit's are bare.
func (l *lab) webhookRow(ctx context.Context) error {
	f, err := l.replies(ctx, "webhook", bench.Webhook)
	if err != nil {
		return err
	}
	l.rates("signed durable callbacks/s, of the limit's bare ones", "limit", atLeast(0.5, ""), bound{}, f)
	l.rates("signed durable callbacks/s, of the asynq peer", "peer", atLeast(1.8, ""), bound{}, f)
	return nil
}

// latencyRow: how long a reply takes at a rate that all can carry, by SSE.
func (l *lab) latencyRow(ctx context.Context) error {
	for _, at := range []struct {
		rate float64
		name string
	}{{200, "200/s"}, {1000, "1,000/s"}} {
		f, err := l.inTurn(ctx, "SSE at "+at.name, withWorker[:2], func(ctx context.Context, k *stack) (sample, error) {
			return k.load(ctx, bench.Options{Via: bench.SSE, Body: small, Rate: at.rate, Duration: 2 * l.duration})
		})
		if err != nil {
			return err
		}
		l.bound("SSE at "+at.name+": p50, of the limit's", atMost(1.4, ""), bound{}, f.ratio("coatcheck", "limit", p50), "%.2f ms against %.2f ms; %.0f replies/s came", f.of("coatcheck", p50), f.of("limit", p50), f.of("coatcheck", rate))
		l.bound("SSE at "+at.name+": p99", atMost(3, " ms"), bound{}, f.of("coatcheck", p99), "the limit's is %.2f ms", f.of("limit", p99))
	}
	return nil
}

// aofRow: what an append-only file costs.
func (l *lab) aofRow(ctx context.Context) error {
	f, err := l.inTurn(ctx, "AOF", []setup{{kind: product, name: "none"}, {kind: product, name: "everysec", redis: "--appendonly yes --appendfsync everysec"}},
		func(ctx context.Context, k *stack) (sample, error) {
			return k.load(ctx, bench.Options{Via: bench.Submit, Body: small})
		})
	if err != nil {
		return err
	}
	l.bound("submits/s with AOF everysec, of those without", atLeast(0.9, ""), bound{}, f.ratio("everysec", "none", rate), "%.0f/s against %.0f/s; by CPU time %.2f", f.of("everysec", rate), f.of("none", rate), f.ratio("everysec", "none", sample.carried))
	return nil
}
