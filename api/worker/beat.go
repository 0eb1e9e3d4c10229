package worker

import (
	"context"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// early is by what part of its interval a heartbeat may come before its time, so that
// those of many jobs are looked for together.
const early = 10

// beat is a heartbeat on its way.
type beat struct {
	stop context.CancelFunc // gives it up
	done chan struct{}      // closed once it was sent or given up
}

// over stands where a beat would, once the handler has returned.
var over = &beat{}

// heartbeats renews the leases of the running jobs every third of it, until ctx ends.
// A job that is over before its first costs it nothing.
func (r *run) heartbeats(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.slots.sooner:
		case <-t.C:
		}
		due, next := r.slots.due(time.Now())
		for _, j := range due {
			j.beat()
		}
		if next.IsZero() {
			t.Stop()
		} else {
			t.Reset(time.Until(next))
		}
	}
}

// due are the jobs that need a heartbeat now, and when to look again: zero where there
// is no job.
func (s *slots) due(now time.Time) (due []*job, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		if j == nil {
			continue
		}
		if j.beatAt.Before(now.Add(j.every/early)) || j.beatAt.Equal(now) {
			j.beatAt = now.Add(j.every)
			due = append(due, j)
		}
		if next.IsZero() || j.beatAt.Before(next) {
			next = j.beatAt
		}
	}
	s.beat = next
	return due, next
}

// interval is how often the lease of a delivery is renewed.
func (r *run) interval(d broker.Delivery) time.Duration {
	every := d.Lease / 3
	if h := r.options.heartbeat; h > 0 && (every <= 0 || h < every) {
		every = h
	}
	if every <= 0 {
		every = defaultLease / 3
	}
	return every
}

// beat sends a heartbeat, beside whatever the handler does, unless one is on its way or
// the context of the handler has ended.
func (j *job) beat() {
	if j.ctx.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(&j.ctx)
	b := &beat{stop, make(chan struct{})}
	if !j.beating.CompareAndSwap(nil, b) {
		stop()
		return
	}
	go func() { // to hand it over may take a while
		j.run.broker.Post(ctx, j.ctx.deadline, j.delivery, broker.WorkerReply{Type: "heartbeat"}, func(err error) {
			if err != nil && ctx.Err() == nil {
				j.log().Warn("heartbeat was not sent", "error", err)
			}
			stop()
			j.beating.CompareAndSwap(b, nil)
			close(b.done)
		})
	}()
}

// hush has no heartbeat come from now on: one after the reply would count as late. One
// that has left is waited for.
func (j *job) hush() {
	if b := j.beating.Swap(over); b != nil && b != over {
		b.stop()
		<-b.done
	}
}
