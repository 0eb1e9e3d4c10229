package pull

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	// blockedReads is how many services may have a blocked read at once: each
	// holds a connection, of which the steward needs some. The lines beyond look
	// every pollEvery.
	blockedReads = 128
	pollEvery    = 250 * time.Millisecond

	// Small requests are read by growing handfuls, large ones one by one: nobody
	// can say before how large what comes is.
	mostHandful = 16
	smallBody   = 16 << 10
)

// Run reads for those who wait, until ctx ends; then it lets them go.
func (d *Desk) Run(ctx context.Context) error {
	var readers sync.WaitGroup
	for {
		select {
		case <-ctx.Done():
			d.Drain()
			d.begin(ctx, &readers) // who joined just now is let go like the others
			readers.Wait()
			return nil
		case <-d.come:
			d.begin(ctx, &readers)
		}
	}
}

// begin gives each line that has none its reader.
func (d *Desk) begin(ctx context.Context, readers *sync.WaitGroup) {
	d.mu.Lock()
	fresh := d.fresh
	d.fresh = nil
	d.mu.Unlock()
	for _, l := range fresh {
		readers.Go(func() { d.read(ctx, l) })
	}
}

// read serves a line for as long as there is one.
func (d *Desk) read(ctx context.Context, l *line) {
	handful := 1
	for {
		n, wait, ok := d.next(l, handful)
		if !ok {
			return
		}
		release := func() {}
		if wait > 0 {
			select {
			case d.blocked <- struct{}{}:
				release = func() { <-d.blocked }
			default:
				loop.Rest(ctx, min(wait, pollEvery))
				wait = -1
			}
		}
		// Not ctx: what Redis hands over while ctx ends must reach somebody.
		got, err := d.broker.Reserve(context.WithoutCancel(ctx), l.service, n, wait)
		release()
		bytes := 0
		for _, w := range got {
			bytes += len(w.Body)
		}
		switch {
		case bytes > len(got)*smallBody:
			handful = 1
		case len(got) == n:
			handful = min(2*handful, mostHandful)
		}
		d.Back(d.deal(l, n, wait > 0, got, err))
	}
}

// next answers who has waited long enough, and says how much to read for the
// others and for how long: not longer than any of them waits, and not at all
// where somebody has some work already and only wants more of it. ok is false,
// and the line is gone, where nobody is left.
func (d *Desk) next(l *line, handful int) (n int, wait time.Duration, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	l.waiting = slices.DeleteFunc(l.waiting, func(c *claim) bool {
		over := d.draining || c.looked && len(c.got) == 0 && !now.Before(c.until)
		if over {
			close(c.done)
		}
		return over
	})
	if len(l.waiting) == 0 {
		delete(d.lines, l.service)
		return 0, 0, false
	}
	wait = longestRead
	for _, c := range l.waiting {
		c.looked = true
		n += c.want - len(c.got)
		wait = min(wait, c.until.Sub(now))
	}
	if wait <= 0 || len(l.waiting[0].got) > 0 {
		wait = -1
	}
	l.idle = wait > 0
	return min(n, handful), wait, true
}

// deal gives what was read to those who wait, the oldest first, and returns what
// nobody waits for any more. It keeps the head of the line waiting for more only
// while there is more.
func (d *Desk) deal(l *line, asked int, waited bool, got []broker.Delivery, err error) (over []broker.Delivery) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l.idle = false
	for _, w := range got {
		if w.Token == "" || w.ReplyTo == "" {
			d.log.Error("work entry that no gateway wrote; it is left alone", "correlation_id", w.ID, "service", l.service)
			continue
		}
		if len(l.waiting) == 0 {
			over = append(over, w)
			continue
		}
		head := l.waiting[0]
		head.got, head.bytes = append(head.got, w), head.bytes+len(w.Body)
		if len(head.got) == head.want || head.bytes >= claimBytes {
			l.finish(nil)
		}
	}
	if err != nil {
		for len(l.waiting) > 0 {
			l.finish(err)
		}
	}
	if !waited && len(got) < asked && len(l.waiting) > 0 && len(l.waiting[0].got) > 0 {
		l.finish(nil)
	}
	return over
}
