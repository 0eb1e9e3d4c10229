package watch_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/coatcheck/coatcheck/internal/watch"
)

// TestManyShareWhatIsMade of an answer, as they share the read.
func TestManyShareWhatIsMade(t *testing.T) {
	const many = 50
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		var made atomic.Int64
		var all sync.WaitGroup
		hold := make(chan struct{})
		r.set(func() { r.hold = hold })
		for range many {
			w := r.hub.Watch(id)
			all.Go(func() {
				defer w.Close()
				a, err := w.Events(t.Context(), 0)
				if err != nil {
					t.Error(err)
					return
				}
				text, err := a.Share(func() ([]byte, error) {
					made.Add(1)
					return []byte(a.Record.Status), nil
				})
				if string(text) != "queued" || err != nil {
					t.Errorf("%q, %v", text, err)
				}
			})
		}
		synctest.Wait() // one read is under way, and all others wait for the next
		close(hold)
		all.Wait()
		if n := made.Load(); n > 2 {
			t.Errorf("made %d times", n)
		}
	})
}

// TestTell: who wants to be called misses nothing of what came before.
func TestTell(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		told := make(chan *watch.Watch, 10)
		early, late := r.hub.Watch(id), r.hub.Watch(id)
		for _, w := range []*watch.Watch{early, late} {
			defer w.Close()
			if _, err := w.Attach(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		late.Tell(func() { told <- late })
		r.reply(r.claim(), "final")
		synctest.Wait()
		if len(told) == 0 || <-told != late {
			t.Error("a change is not told")
		}
		early.Tell(func() { told <- early })
		if len(told) == 0 || <-told != early {
			t.Error("what came before is not told")
		}
	})
}
