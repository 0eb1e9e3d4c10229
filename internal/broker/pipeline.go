package broker

import (
	"context"
	"sync"
	"time"
)

// Limits of one shared pipeline: beyond them, Redis would keep the first of a
// batch waiting for the answer to the last.
const (
	pipelineCommands = 128
	pipelineBytes    = 256 << 10
	pipelineFlushers = 2 // the next batch fills while one is under way
)

// pipeline lets concurrent calls share pipelines. A call on an idle one leaves at once,
// calls that come meanwhile leave together; there is a timer only where nobody waits for
// the answers.
type pipeline[Q, A any] struct {
	send   func([]*call[Q, A]) // answers every call: sets answer or err
	linger time.Duration       // for which the first of a batch waits for others; 0 for not at all

	queue chan *call[Q, A] // callers send, flushers receive, nobody closes
	spare sync.Pool        // of calls that were answered: to make one costs as much as to hand it over
	stop  chan struct{}    // closed by close
	once  sync.Once
	done  sync.WaitGroup
	gone  chan struct{} // closed once nobody answers any more
}

type call[Q, A any] struct {
	ask    Q
	size   int // bytes on the wire, about
	answer A
	err    error
	ready  chan struct{} // the flusher sends once answer and err are set, and finds room; nil where done is called
	done   func(A, error)
}

// finish hands over the answer.
func (c *call[Q, A]) finish() {
	if c.done != nil {
		c.done(c.answer, c.err)
		return
	}
	c.ready <- struct{}{}
}

func newPipeline[Q, A any](send func([]*call[Q, A]), linger time.Duration) *pipeline[Q, A] {
	b := &pipeline[Q, A]{send: send, linger: linger, queue: make(chan *call[Q, A], pipelineCommands), stop: make(chan struct{}), gone: make(chan struct{})}
	flushers := pipelineFlushers
	if linger > 0 {
		flushers = 1 // another would take the second call while the first waits for it
	}
	for range flushers {
		b.done.Go(b.flush)
	}
	return b
}

// do has the call answered. left tells that ctx ended after the call was
// handed over: what became of it is unknown.
func (b *pipeline[Q, A]) do(ctx context.Context, ask Q, size int) (answer A, left bool, err error) {
	if err := ctx.Err(); err != nil { // else the answer might be faster
		return answer, false, err
	}
	c, _ := b.spare.Get().(*call[Q, A])
	if c == nil {
		c = &call[Q, A]{ready: make(chan struct{}, 1)}
	}
	c.ask, c.size = ask, size
	select {
	case b.queue <- c: // there is room, nearly always
	default:
		select {
		case b.queue <- c:
		case <-ctx.Done():
			return answer, false, ctx.Err()
		case <-b.stop:
			return answer, false, ErrClosed
		}
	}
	select {
	case <-c.ready:
	case <-ctx.Done():
		return answer, true, ctx.Err()
	case <-b.gone: // it came while the batch closed: was it answered still?
		select {
		case <-c.ready:
		default:
			return answer, false, ErrClosed
		}
	}
	answer, err = c.answer, c.err
	*c = call[Q, A]{ready: c.ready}
	b.spare.Put(c)
	return answer, false, err
}

// post has the call answered without waiting for it: done gets the answer, or that
// there is none since ctx ended before the call was handed over. It is called once, by
// who answers the others too, and must not hold that up.
func (b *pipeline[Q, A]) post(ctx context.Context, ask Q, size int, done func(A, error)) {
	c := &call[Q, A]{ask: ask, size: size, done: done}
	select {
	case b.queue <- c:
		select {
		case <-b.gone:
			b.refuse()
		default:
		}
	case <-ctx.Done():
		c.err = ctx.Err()
		c.finish()
	case <-b.stop:
		c.err = ErrClosed
		c.finish()
	}
}

func (b *pipeline[Q, A]) flush() {
	for {
		select {
		case <-b.stop:
			b.refuse()
			return
		case first := <-b.queue:
			if b.linger > 0 {
				b.rest()
			}
			calls := b.gather(first)
			b.send(calls)
			for _, c := range calls {
				c.finish()
			}
		}
	}
}

// rest lets others join the first call of a batch.
func (b *pipeline[Q, A]) rest() {
	t := time.NewTimer(b.linger)
	defer t.Stop()
	select {
	case <-t.C:
	case <-b.stop:
	}
}

func (b *pipeline[Q, A]) gather(first *call[Q, A]) []*call[Q, A] {
	calls, bytes := []*call[Q, A]{first}, first.size
	for len(calls) < pipelineCommands && bytes < pipelineBytes {
		select {
		case c := <-b.queue:
			calls, bytes = append(calls, c), bytes+c.size
		default:
			return calls
		}
	}
	return calls
}

// refuse answers what was queued when the batch closed.
func (b *pipeline[Q, A]) refuse() {
	for {
		select {
		case c := <-b.queue:
			c.err = ErrClosed
			c.finish()
		default:
			return
		}
	}
}

func (b *pipeline[Q, A]) close() {
	b.once.Do(func() {
		close(b.stop)
		b.done.Wait()
		close(b.gone)
		b.refuse() // callers that raced with stop
	})
}
