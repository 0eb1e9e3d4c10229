package watch

import (
	"context"
	"errors"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	lastLook = time.Second // a wait that ended still answers within this
	retry    = time.Second // after a read that failed, and half as much jitter
)

// Pause is for how long a waiter whose read failed should rest before it asks again, a
// little differently for each process and request: all of one share a read.
func (w *Watch) Pause() time.Duration {
	return retry/2 + loop.Jitter(w.hub.broker.Name()+w.id.String(), retry)
}

// Wait returns the record once it is terminal or enough says so, or the newest
// there is, without an error, after most, when ctx ends or the process drains. A nil
// enough is never so. Errors are those of broker.Attach where nothing could be read at
// first, and ErrGone; an outage that begins later is waited out.
func (h *Hub) Wait(ctx context.Context, id correlation.ID, most time.Duration, enough func(broker.Record) bool) (broker.Record, error) {
	end := time.Now().Add(most)
	late := time.NewTimer(most) // a context with a deadline costs what half of all else here does
	defer late.Stop()
	w := h.Watch(id)
	defer w.Close()
	newest, unread := w.accepted()
	if unread = unread && enough == nil; !unread {
		var err error
		if newest, err = w.Attach(context.WithoutCancel(ctx)); err != nil {
			return broker.Record{}, err
		}
	}
	var failed <-chan time.Time
	for !newest.Status.Terminal() && (enough == nil || !enough(newest)) {
		select {
		case <-w.Again():
		case <-failed:
		case <-late.C:
			return w.last(ctx, newest, unread)
		case <-ctx.Done():
			return w.last(ctx, newest, unread)
		case <-h.drain:
			if unread {
				return w.last(ctx, newest, unread)
			}
			return newest, nil
		}
		r, err := w.attachUntil(ctx, end)
		switch {
		case err == nil:
			newest, failed, unread = r, nil, false
		case errors.Is(err, broker.ErrGone):
			return broker.Record{}, err
		default:
			failed = time.After(w.Pause())
		}
	}
	return newest, nil
}

// attachUntil is Attach until end at the latest.
func (w *Watch) attachUntil(ctx context.Context, end time.Time) (broker.Record, error) {
	if a, ok := w.told(attach); ok {
		return a.Record, nil
	}
	ctx, stop := context.WithDeadline(ctx, end)
	defer stop()
	return w.Attach(ctx)
}

// last looks once more when the time is over: that a worker has begun is known
// to who asks, no hint tells it. What is unread is not shown unless that succeeds: it
// may be older than what others saw.
func (w *Watch) last(ctx context.Context, newest broker.Record, unread bool) (broker.Record, error) {
	if errors.Is(ctx.Err(), context.Canceled) { // nobody is there to read the answer
		return newest, nil
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), lastLook)
	defer stop()
	r, err := w.Attach(ctx)
	if errors.Is(err, broker.ErrGone) || err != nil && unread {
		return broker.Record{}, err
	}
	if err != nil {
		return newest, nil
	}
	return r, nil
}
