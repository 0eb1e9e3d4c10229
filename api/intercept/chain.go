package intercept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// Limits of one interceptor, so that a slow or broken one can't stop a gateway.
const (
	limit     = time.Second      // of one call
	patience  = 5                // failures in a row before it is not asked
	penalty   = 30 * time.Second // for how long
	atOnce    = 64               // calls of one interceptor, with those that never return
	stackSize = 4 << 10          // bytes of a panic's stack that are logged
)

// Chain is the interceptors of a gateway. Add all before it is used.
type Chain struct {
	log   *slog.Logger
	links []*link
}

// link is one interceptor in its place.
type link struct {
	Interceptor
	service string
	slots   chan struct{} // capacity atOnce; a call holds one, whoever waits for it or not

	mu       sync.Mutex // guards the rest
	failures int        // in a row
	until    time.Time  // not asked before
}

// NewChain makes an empty chain.
func NewChain(log *slog.Logger) *Chain { return &Chain{log: log} }

// Use adds interceptors for a service, or All.
func (c *Chain) Use(service string, interceptors ...Interceptor) {
	for _, i := range interceptors {
		c.links = append(c.links, &link{Interceptor: i, service: service, slots: make(chan struct{}, atOnce)})
	}
}

// Request runs the chain on a request and returns what is left of it. Errors:
// *Refusal, ErrBroken, or what an interceptor returned.
func (c *Chain) Request(ctx context.Context, r Request) (Request, error) {
	for l := range c.of(r.Service) {
		if l.Interceptor.Request == nil {
			continue
		}
		seen := r.copy()
		if err := c.call(ctx, l, func(ctx context.Context) error { return l.Interceptor.Request(ctx, seen) }); err != nil {
			return Request{}, fmt.Errorf("interceptor %s: %w", l.Name, err)
		}
		r = *seen
	}
	return r, nil
}

// Reply runs the chain on a final reply. Errors as of Request.
func (c *Chain) Reply(ctx context.Context, r Reply) (Reply, error) {
	for l := range c.of(r.Service) {
		if l.Interceptor.Reply == nil {
			continue
		}
		seen := r
		if err := c.call(ctx, l, func(ctx context.Context) error { return l.Interceptor.Reply(ctx, &seen) }); err != nil {
			return Reply{}, fmt.Errorf("interceptor %s: %w", l.Name, err)
		}
		r = seen
	}
	return r, nil
}

// RepliesOf lists the services whose replies some interceptor wants to see, All
// for every one.
func (c *Chain) RepliesOf() (services []string) {
	for _, l := range c.links {
		if l.Interceptor.Reply != nil {
			services = append(services, l.service)
		}
	}
	return services
}

// of yields the links of a service: those of all services first.
func (c *Chain) of(service string) func(yield func(*link) bool) {
	return func(yield func(*link) bool) {
		for _, wanted := range []string{All, service} {
			for _, l := range c.links {
				if l.service == wanted && !yield(l) {
					return
				}
			}
		}
	}
}

// call asks one interceptor, and waits for it no longer than it may take.
func (c *Chain) call(ctx context.Context, l *link, ask func(context.Context) error) error {
	if !l.asked() {
		return fmt.Errorf("%w: it failed %d times in a row and rests", ErrBroken, patience)
	}
	select {
	case l.slots <- struct{}{}:
	default:
		l.learn(true)
		return fmt.Errorf("%w: %d calls of it are under way", ErrBroken, atOnce)
	}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	answer := make(chan error, 1) // the interceptor sends; nobody may be left to receive
	go func() {
		defer func() { <-l.slots }()
		defer func() {
			if cause := recover(); cause != nil {
				stack := debug.Stack()
				c.log.Error("an interceptor panicked", "interceptor", l.Name, "service", l.service, "panic", fmt.Sprint(cause), "stack", string(stack[:min(len(stack), stackSize)]))
				answer <- fmt.Errorf("%w: it panicked", ErrBroken)
				l.learn(true)
			}
		}()
		err := ask(ctx)
		if ctx.Err() == nil {
			l.learn(false)
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			l.learn(true)
			c.log.Error("an interceptor takes too long", "interceptor", l.Name, "service", l.service, "limit", limit)
		}
		return fmt.Errorf("%w: it took longer than %s", ErrBroken, limit)
	}
}

func (l *link) asked() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().After(l.until)
}

// learn counts failures in a row.
func (l *link) learn(failed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !failed {
		l.failures = 0
		return
	}
	if l.failures++; l.failures >= patience {
		l.failures, l.until = 0, time.Now().Add(penalty)
	}
}
