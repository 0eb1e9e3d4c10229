package watch_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// poll polls, and tells how long that took.
func (r *room) poll(id correlation.ID) (broker.Record, time.Duration, error) {
	began := time.Now()
	record, err := r.hub.Poll(r.t.Context(), id)
	return record, time.Since(began), err
}

// crowd polls a request until the test ends, from many clients that ask twice a second.
func (r *room) crowd(id correlation.ID, many int) (leave func()) {
	ctx, stop := context.WithCancel(r.t.Context())
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(time.Duration(i%50) * 10 * time.Millisecond)
				if _, err := r.hub.Poll(ctx, id); err != nil && ctx.Err() == nil {
					r.t.Error(err)
				}
				time.Sleep(500*time.Millisecond - time.Duration(i%50)*10*time.Millisecond)
			}
		})
	}
	return func() {
		stop()
		all.Wait()
	}
}

func TestWhoPollsAloneWaitsForNobody(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		for range 30 {
			if _, took, err := r.poll(id); err != nil || took != 0 {
				t.Fatalf("answered after %v, %v", took, err)
			}
			time.Sleep(500 * time.Millisecond)
		}
	})
}

func TestCrowdSharesItsReads(t *testing.T) {
	const lasts = 10 * time.Second
	inside(t, func(t *testing.T, r *room) {
		leave := r.crowd(r.submit(), 100)
		defer leave()
		time.Sleep(2 * time.Second)
		r.set(func() { r.looks = 0 })
		time.Sleep(lasts)
		r.mu.Lock()
		defer r.mu.Unlock()
		if most := int(3 * lasts.Seconds()); r.looks > most || r.looks == 0 {
			t.Errorf("%d reads, more than %d or none", r.looks, most)
		}
	})
}

// TestCrowdHearsOfItAtOnce: who has to wait for a read is told as soon as there is
// something to tell.
func TestCrowdHearsOfItAtOnce(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		d := r.claim()
		for range 4 { // the last of them waited, and had this process registered
			if _, _, err := r.poll(id); err != nil {
				t.Fatal(err)
			}
		}
		found := make(chan time.Duration)
		go func() {
			record, took, err := r.poll(id)
			if err != nil || record.Status != broker.Succeeded {
				t.Errorf("%s, %v", record.Status, err)
			}
			found <- took
		}()
		synctest.Wait()
		r.reply(d, "final")
		if took := <-found; took != 0 {
			t.Errorf("answered after %v", took)
		}
	})
}

// TestPollShowsNothingOld: what was there before a poll is what it shows, in a crowd
// as well.
func TestPollShowsNothingOld(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		leave := r.crowd(id, 20)
		defer leave()
		time.Sleep(2 * time.Second)
		if _, err := r.broker.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if record, _, err := r.poll(id); err != nil || record.Status != broker.Canceled {
			t.Errorf("%s, %v", record.Status, err)
		}
	})
}

func TestPollHasItsOwnEnd(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		for range 3 {
			r.poll(id)
		}
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, stop)
		if _, err := r.hub.Poll(ctx, id); !errors.Is(err, context.Canceled) {
			t.Errorf("%v instead of its own end", err)
		}
		r.set(func() { r.away = true })
		if _, _, err := r.poll(id); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("%v while Redis is away", err)
		}
	})
}
