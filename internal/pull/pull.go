// Package pull hands work to workers that can't reach Redis: they ask over HTTP
// and wait until there is some.
//
//	d := pull.New(b, logger)
//	go d.Run(ctx)
//	held, err := d.Claim(ctx, "resize", 10, 30*time.Second) // a call that rests
//	got, err := b.Entrust(ctx, held)                       // its client is there
//	d.Back(held)                                            // it left meanwhile
//
// Until it is handed over, work is queued to everybody who looks.
//
// All who wait for one service share one blocked read of its stream, and no more
// is read than they asked for together: work that nobody can take stays where
// other workers find it. Whoever waits longest is served first.
//
// Pitfalls. A blocked read can't be interrupted, so each ends before the first
// wait that it is for does. Whoever leaves during a read may leave work over:
// that is put back untouched, its attempt not used up, at the end of its line.
// What a client was sent, perhaps in part, is for the caller to judge.
package pull

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
)

const (
	longestRead = time.Second // of one blocked read; bounds how long a drain waits for it
	backWithin  = 2 * time.Second
	// claimBytes ends one claim of many: what is handed over at once is held in
	// memory as a whole.
	claimBytes = 8 << 20
)

// Desk is where work is asked for. Its methods may be called by many.
type Desk struct {
	broker  *broker.Broker
	log     *slog.Logger
	blocked chan struct{} // one element for each blocked read under way; never closed
	come    chan struct{} // capacity 1; join sends, Run receives: there are fresh lines

	mu       sync.Mutex // guards the rest, and what is in the lines
	lines    map[string]*line
	fresh    []*line // without a reader yet
	draining bool
}

// line is who waits for one service. It lives while somebody does.
type line struct {
	service string
	waiting []*claim // the oldest first
	idle    bool     // its reader waits: there is nothing to take
}

// claim is one call.
type claim struct {
	want   int
	until  time.Time
	looked bool // a read was made for it
	bytes  int

	got  []broker.Delivery
	err  error
	done chan struct{} // closed once got and err are final; then the claim is in no line
}

// New makes a desk; Run serves it.
func New(b *broker.Broker, log *slog.Logger) *Desk {
	return &Desk{
		broker: b, log: log, blocked: make(chan struct{}, blockedReads), come: make(chan struct{}, 1), lines: map[string]*line{},
	}
}

// Claim takes up to n requests of a service that is known, waiting for the first.
// It returns none and no error when none came within wait, or the process drains.
// What it returns is held, until broker.Entrust or Back. Errors are those of
// broker.Claim, or ctx's; then nothing is held.
func (d *Desk) Claim(ctx context.Context, service string, n int, wait time.Duration) ([]broker.Delivery, error) {
	c := &claim{want: n, until: time.Now().Add(wait), done: make(chan struct{})}
	if !d.join(service, c, wait <= 0) {
		return nil, nil
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		d.leave(service, c)
	}
	if ctx.Err() != nil {
		d.Back(c.got)
		return nil, ctx.Err()
	}
	return c.got, c.err
}

// Back puts work back that no worker has seen, and returns when Redis has it.
// What can't be put back is found by its lapsed lease.
func (d *Desk) Back(work []broker.Delivery) {
	ctx, stop := context.WithTimeout(context.Background(), backWithin)
	defer stop()
	for _, w := range work {
		log := d.log.With("correlation_id", w.ID, "service", w.Service, "attempt", w.Attempt)
		if err := d.broker.Unclaim(ctx, w); err != nil {
			log.Warn("work that nobody waited for was not put back; its lease will lapse", "error", err)
		} else {
			log.Debug("work that nobody waited for is back in its line")
		}
	}
}

// Drain lets every claim go, with what it has, as soon as the reads under way
// have ended. Nothing is claimed any more.
func (d *Desk) Drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
}

// Waiting is how many claims wait, for the metrics.
func (d *Desk) Waiting() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lines {
		n += len(l.waiting)
	}
	return n
}

// join puts a claim into the line of its service. It refuses one that is already
// answered: by a drain, or because it won't wait where others wait for work.
func (d *Desk) join(service string, c *claim, atOnce bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lines[service]
	if d.draining || atOnce && l != nil && l.idle {
		return false
	}
	if l == nil {
		l = &line{service: service}
		d.lines[service] = l
		d.fresh = append(d.fresh, l)
		select {
		case d.come <- struct{}{}:
		default:
		}
	}
	l.waiting = append(l.waiting, c)
	return true
}

// leave takes a claim out of its line. What was read for it stays with it.
func (d *Desk) leave(service string, c *claim) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.lines[service]; l != nil {
		l.waiting = slices.DeleteFunc(l.waiting, func(other *claim) bool { return other == c })
	}
}

// finish answers the claim at the head of the line. It is called with mu held.
func (l *line) finish(err error) {
	c := l.waiting[0]
	l.waiting = l.waiting[1:]
	if len(c.got) == 0 {
		c.err = err
	}
	close(c.done)
}
