package watch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// TestOnlyWhatChangedIsReadAgain: nothing happens to most that is waited for, so to look
// at all of it costs a script for many.
func TestOnlyWhatChangedIsReadAgain(t *testing.T) {
	const many = 300
	inside(t, func(t *testing.T, r *room) {
		claimed := r.submit()
		waited := r.wait(claimed, time.Minute, func(now broker.Record) bool { return now.Status == broker.Running })
		for range many {
			r.wait(r.submit(), time.Minute, terminal)
		}
		synctest.Wait()
		time.Sleep(20 * time.Second)
		r.claim() // the first submitted; no hint tells of it
		r.set(func() { r.looks = 0 })
		if got := <-waited; got.record.Status != broker.Running || got.err != nil {
			t.Errorf("%s, %v", got.record.Status, got.err)
		}
		time.Sleep(20 * time.Second)
		r.mu.Lock()
		if r.looks == 0 || r.looks > 10 {
			t.Errorf("%d records were read, where one changed", r.looks)
		}
		r.mu.Unlock()
		r.hub.Drain()
	})
}
