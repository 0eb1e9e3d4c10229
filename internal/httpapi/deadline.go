package httpapi

import (
	"context"
	"sync"
	"time"
)

// deadlines hands out a context for each submit, which ends in submitTimeout or up to
// deadlineStep later. All submits of a step share one: a timer of its own would cost a
// submit more than most of what else it does.
type deadlines struct {
	mu    sync.Mutex // guards the rest
	ctx   context.Context
	until time.Time // of the step
}

const deadlineStep = time.Second

// next is nobody's to cancel: it ends by itself. It does not end with the call, since
// what is committed stays committed.
func (d *deadlines) next() context.Context {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.After(d.until) {
		ctx, stop := context.WithTimeout(context.Background(), submitTimeout+deadlineStep)
		context.AfterFunc(ctx, stop)
		d.ctx, d.until = ctx, now.Add(deadlineStep)
	}
	return d.ctx
}
