package worker

import (
	"context"
	"sync"
	"time"
)

const (
	// stopTime is what handlers have to return in, once their context ended
	// with ErrShutdown, before their requests are given back without them.
	stopTime = time.Second
	// giveBackTime bounds the wait for Redis while giving back. What can't be
	// given back is found by its lapsed lease.
	giveBackTime = 2 * time.Second
)

// drain waits for the running handlers as long as the grace lasts, then stops
// them, and gives back what they leave. Nothing is claimed meanwhile.
func (r *run) drain() {
	done := make(chan struct{}) // closed by the goroutine below
	go func() {
		r.handler.Wait()
		close(done)
	}()
	if ended(done, r.options.grace) {
		return
	}
	left := r.slots.running()
	r.log.Info("grace is over: handlers are stopped and their requests given back", "running", len(left))
	for _, j := range left {
		j.ctx.cancel(ErrShutdown)
	}
	if ended(done, stopTime) {
		return
	}
	// These ignore their context, or wait for Redis. Their goroutines stay
	// behind; whatever they still say is dropped as stale.
	var back sync.WaitGroup
	for _, j := range r.slots.running() {
		back.Go(j.abandon)
	}
	back.Wait()
}

// abandon gives the request of a handler that does not return to another worker.
func (j *job) abandon() {
	ctx, stop := context.WithTimeout(j.run.work, giveBackTime)
	defer stop()
	if !j.mu.TryLock() { // its last reply is on its way
		return
	}
	defer j.mu.Unlock()
	if j.answered {
		return
	}
	j.answered = true
	if err := j.send(ctx, *giveBack()); err != nil {
		j.log().Warn("request was not given back; its lease will lapse", "error", err)
		return
	}
	j.log().Warn("handler did not stop; its request was given to another worker")
}

func ended(done <-chan struct{}, within time.Duration) bool {
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}
