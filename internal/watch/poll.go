package watch

import (
	"context"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

const (
	pollEvery = 500 * time.Millisecond // between two reads of a request that is polled more often, while it rests
	pollBurst = 3                      // reads of one that was not polled lately which leave at once
)

// polls knows which requests are polled more often than they are read. Who polls in
// a crowd waits for the next read, which all of them share. It leaves after each of them
// asked, so that nobody is shown less than somebody saw before, by way of any gateway;
// and at once when the request changes, so that who polls too often hears of it first.
type polls struct {
	mu     sync.Mutex                   // guards the rest
	paid   map[correlation.ID]time.Time // until when its reads use up a request's share of reads
	next   map[correlation.ID]*poll     // reads that have not left yet
	tidied time.Time
}

// poll is one read for all who asked before it left.
type poll struct {
	leaves *time.Timer
	done   chan struct{} // closed by its read, once record and err are set
	record broker.Record
	err    error
}

// Poll reads a record, at once or, where many ask for it, within a moment together
// with the others. Errors are those of broker.Status and ctx.
func (h *Hub) Poll(ctx context.Context, id correlation.ID) (broker.Record, error) {
	p := h.polls.join(id, func(p *poll) {
		ctx, stop := context.WithTimeout(context.Background(), readWithin)
		defer stop()
		// This process stays registered: a wake-up that reaches nobody costs less than
		// to take that back after each poll.
		p.record, p.err = h.broker.Attach(ctx, id)
	})
	if p == nil {
		return h.broker.Status(ctx, id)
	}
	select {
	case <-p.done:
		return p.record, p.err
	case <-ctx.Done():
		return broker.Record{}, ctx.Err()
	}
}

// join returns the read to wait for, or nil where the caller may read for itself.
func (p *polls) join(id correlation.ID, read func(*poll)) *poll {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if shared := p.next[id]; shared != nil {
		return shared
	}
	p.tidy(now)
	paid := p.paid[id]
	if paid.Before(now) {
		paid = now
	}
	rest := min(paid.Sub(now)-(pollBurst-1)*pollEvery, pollEvery)
	if rest <= 0 {
		p.paid[id] = paid.Add(pollEvery)
		return nil
	}
	p.paid[id] = now.Add(rest + pollBurst*pollEvery)
	shared := &poll{done: make(chan struct{})}
	p.next[id] = shared
	shared.leaves = time.AfterFunc(rest, func() {
		p.mu.Lock()
		delete(p.next, id)
		p.mu.Unlock()
		read(shared)
		close(shared.done)
	})
	return shared
}

// hurry has the read of a request that changed leave now.
func (p *polls) hurry(id correlation.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if shared := p.next[id]; shared != nil && shared.leaves.Stop() {
		shared.leaves.Reset(0)
	}
}

// tidy forgets what was not polled lately, once in a while.
func (p *polls) tidy(now time.Time) {
	if now.Sub(p.tidied) < time.Second {
		return
	}
	p.tidied = now
	for id, paid := range p.paid {
		if paid.Before(now) {
			delete(p.paid, id)
		}
	}
}
