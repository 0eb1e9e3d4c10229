package broker

import (
	"context"
	"sync"
	"time"
)

// lanes are pipelines by server: a server that is slow holds up what is for itself.
type lanes[Q, A any] struct {
	of     func(Q) string // name of the server; "" where there is one
	send   func([]*call[Q, A])
	linger time.Duration // of each

	mu     sync.Mutex // guards the rest
	open   map[string]*pipeline[Q, A]
	closed bool
}

func newLanes[Q, A any](of func(Q) string, send func([]*call[Q, A]), linger time.Duration) *lanes[Q, A] {
	return &lanes[Q, A]{of: of, send: send, linger: linger, open: map[string]*pipeline[Q, A]{"": newPipeline(send, linger)}}
}

// do has the call answered, as that of pipeline.
func (l *lanes[Q, A]) do(ctx context.Context, ask Q, size int) (answer A, left bool, err error) {
	p := l.lane(l.of(ask))
	if p == nil {
		return answer, false, ErrClosed
	}
	return p.do(ctx, ask, size)
}

// post has the call answered without waiting for it, as that of pipeline.
func (l *lanes[Q, A]) post(ctx context.Context, ask Q, size int, done func(A, error)) {
	p := l.lane(l.of(ask))
	if p == nil {
		var none A
		done(none, ErrClosed)
		return
	}
	p.post(ctx, ask, size, done)
}

// lane is nil once they are closed. Servers that went keep theirs, which are idle.
func (l *lanes[Q, A]) lane(name string) *pipeline[Q, A] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	p := l.open[name]
	if p == nil {
		p = newPipeline(l.send, l.linger)
		l.open[name] = p
	}
	return p
}

func (l *lanes[Q, A]) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	for _, p := range l.open {
		p.close()
	}
}
