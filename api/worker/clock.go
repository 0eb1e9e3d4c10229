package worker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/loop"
)

// clock knows how far Redis' clock is ahead of ours: deadlines are Redis', and a
// worker whose clock is wrong must not give work up early, or too late.
type clock struct{ ahead atomic.Int64 }

// measure looks once, and keeps what it knew where Redis does not answer.
func (c *clock) measure(ctx context.Context, b *broker.Broker) bool {
	asked := time.Now()
	theirs, err := b.Now(ctx)
	if err != nil {
		return false
	}
	trip := time.Since(asked)
	c.ahead.Store(int64(theirs.Sub(asked.Add(trip / 2))))
	return true
}

// follow measures now and then, until ctx ends.
func (c *clock) follow(ctx context.Context, b *broker.Broker) {
	rest := clockEvery
	for loop.Rest(ctx, rest) {
		rest = clockEvery
		if !c.measure(ctx, b) {
			rest = troublePause
		}
	}
}

// local is an instant of Redis' clock by ours.
func (c *clock) local(t time.Time) time.Time { return t.Add(-time.Duration(c.ahead.Load())) }
