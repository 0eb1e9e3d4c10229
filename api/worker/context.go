package worker

import (
	"context"
	"sync"
	"time"
)

// handlerContext is the context of a handler, which ends with that of all handlers, at
// the deadline, or for a cause. Most handlers are done before it ends, and many never
// look at it: so the library's, which takes a timer and a place among its siblings, is
// made once somebody does.
type handlerContext struct {
	all      context.Context
	deadline time.Time

	mu    sync.Mutex // guards the rest
	cause error      // for which it was ended, nil as long as it was not
	real  context.Context
	end   context.CancelCauseFunc // of real
	free  context.CancelFunc      // of its timer
}

// cancel ends it; the first cause stays. nil is context.Canceled.
func (c *handlerContext) cancel(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	c.mu.Lock()
	if c.cause == nil {
		c.cause = cause
	}
	end, free := c.end, c.free
	c.mu.Unlock()
	if end != nil {
		end(cause)
		free()
	}
}

// look makes it real.
func (c *handlerContext) look() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		var ctx context.Context
		ctx, c.end = context.WithCancelCause(c.all)
		if c.cause != nil {
			c.end(c.cause)
		}
		c.real, c.free = context.WithDeadline(ctx, c.deadline)
		if c.cause != nil {
			c.free()
		}
	}
	return c.real
}

func (c *handlerContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *handlerContext) Done() <-chan struct{} { return c.look().Done() }

func (c *handlerContext) Err() error {
	c.mu.Lock()
	runs := c.real == nil && c.cause == nil && c.all.Err() == nil && time.Now().Before(c.deadline)
	c.mu.Unlock()
	if runs {
		return nil
	}
	return c.look().Err()
}

// Value makes it real too: by it the library finds the cause.
func (c *handlerContext) Value(key any) any { return c.look().Value(key) }
