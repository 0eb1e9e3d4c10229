package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// troubleRest is how long a client rests after a refusal or an error: to ask at
// once again would make the load of a gateway that has too much already.
const troubleRest = 100 * time.Millisecond

// run is one call of Run.
type run struct {
	Options
	to       target
	payload  payload
	book     *book
	tally    *tally
	receiver *receiver // nil but for Webhook

	begin, from, until time.Time // the run's, and the ends of what is measured of it
	taken              atomic.Int64
	due                chan time.Time // of a fixed rate: one element for each request; the pacer sends and closes
	fatal              context.CancelCauseFunc
	ending             context.Context // ends when no more requests begin
}

func newRun(o Options, to target) *run {
	return &run{Options: o, to: to, payload: newPayload(o.Body), book: newBook(), tally: newTally(o.Via), due: make(chan time.Time)}
}

func (r *run) run(ctx context.Context) (Result, error) {
	working, fatal := context.WithCancelCause(ctx)
	defer fatal(nil)
	r.fatal = fatal
	first := r.newClient(working, 0)
	if err := first.conn.open(); err != nil {
		return Result{}, fmt.Errorf("%w at %s: %w", ErrNoGateway, r.URL, err)
	}
	r.begin = time.Now()
	r.from = r.begin.Add(r.Warmup)
	r.until = r.from.Add(r.Duration)
	r.tally.window(r.from, r.until)
	ending, end := context.WithDeadline(working, r.until)
	defer end()
	r.ending = ending

	var clients, others sync.WaitGroup
	others.Go(func() { r.measure(ending) })
	others.Go(func() { r.report(ending) })
	if r.Rate > 0 {
		others.Go(r.pace)
	}
	for i := range r.Clients {
		c := first
		if i > 0 {
			c = r.newClient(working, i)
		}
		clients.Go(c.loop)
	}
	clients.Wait()
	end()
	others.Wait()
	result := r.result(working.Err() != nil)
	if err := context.Cause(working); err != nil && ctx.Err() == nil {
		return result, err
	}
	return result, ctx.Err()
}

// next says when the next request should begin; false where there is none.
func (r *run) next() (due time.Time, ok bool) {
	if r.Rate > 0 {
		due, ok = <-r.due
		return due, ok
	}
	if r.ending.Err() != nil || r.Requests > 0 && r.taken.Add(1) > int64(r.Requests) {
		return due, false
	}
	return time.Now(), true
}

// pace lets requests begin at their instants, and waits for nobody: where every
// client is busy, those that come late are late from their own instants on.
func (r *run) pace() {
	defer close(r.due)
	clock, err := newAlarm()
	if err != nil {
		r.fatal(fmt.Errorf("keep time: %w", err))
		return
	}
	defer context.AfterFunc(r.ending, clock.close)()
	for n := 0; r.Requests == 0 || n < r.Requests; n++ {
		at := r.begin.Add(time.Duration(float64(n) / r.Rate * float64(time.Second)))
		if at.After(r.until) || clock.wait(at) != nil {
			return
		}
		select {
		case r.due <- at:
		case <-r.ending.Done():
			return
		}
	}
}

// measure tells when the measurement begins and ends.
func (r *run) measure(ctx context.Context) {
	before, stop := context.WithDeadline(ctx, r.from)
	defer stop()
	<-before.Done()
	r.tally.mark(true)
	if r.Measuring != nil {
		r.Measuring(true)
	}
	<-ctx.Done()
	r.tally.mark(false)
	if r.Measuring != nil {
		r.Measuring(false)
	}
}

// report tells once a second how it goes.
func (r *run) report(ctx context.Context) {
	if r.Progress == nil {
		return
	}
	each := time.NewTicker(time.Second)
	defer each.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-each.C:
			p := r.tally.progress()
			p.At, p.Counts = at.Sub(r.begin), r.book.now()
			r.Progress(p)
		}
	}
}
