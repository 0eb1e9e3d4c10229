package watch_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/watch"
)

// TestToldSavesTheRead of who waits, and of who follows and has seen all events but the
// outcome.
func TestToldSavesTheRead(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		w := attached(t, r, id)
		defer w.Close()
		waited := r.wait(id, time.Minute, terminal)
		synctest.Wait()
		r.set(func() { r.reads = 0 })
		r.reply(r.claim(), "final")
		if got := <-waited; got.record.Status != broker.Succeeded || string(got.record.Reply.Body) != "hi" {
			t.Errorf("%+v, %v", got.record, got.err)
		}
		if a, err := w.Events(t.Context(), 0); err != nil || a.Record.Status != broker.Succeeded || len(a.Events) > 0 {
			t.Errorf("%+v, %v", a, err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.reads > 1 { // the settle
			t.Errorf("%d scripts ran", r.reads)
		}
	})
}

// TestToldLeavesNoEventOut: who has not seen all of them reads.
func TestToldLeavesNoEventOut(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		w := attached(t, r, id)
		defer w.Close()
		d := r.claim()
		r.reply(d, "progress")
		r.reply(d, "final")
		synctest.Wait()
		if a, err := w.Events(t.Context(), 0); err != nil || a.Record.Events != 2 || len(a.Events) != 1 {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

// TestNewcomerIsNotTold what was known here before: the request may have been forgotten
// since.
func TestNewcomerIsNotTold(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		first := attached(t, r, id)
		defer first.Close()
		r.reply(r.claim(), "final")
		synctest.Wait()
		if err := r.broker.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := r.hub.Wait(t.Context(), id, time.Hour, terminal); !errors.Is(err, broker.ErrGone) {
			t.Errorf("a wait that began after its end: %v", err)
		}
		if record, err := first.Attach(t.Context()); err != nil || record.Status != broker.Succeeded {
			t.Errorf("who waited then: %s, %v", record.Status, err)
		}
	})
}

// TestToldUntilItIsLost by a failover: who sees the request open again waits again.
func TestToldUntilItIsLost(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		first := attached(t, r, id)
		defer first.Close()
		r.reply(r.claim(), "final")
		synctest.Wait()
		key := "cc:{0}:request:" + id.String()
		record, _ := r.redis.Get(key)
		f := redistest.Record(record)
		_ = r.redis.Set(key, strings.Join([]string{f["service"], f["nonce"], f["entry"], f["plan"]}, " ")) // as it was
		second := r.hub.Watch(id)
		defer second.Close()
		for range 2 {
			if record, err := second.Attach(t.Context()); err != nil || record.Status.Terminal() {
				t.Errorf("%s, %v", record.Status, err)
			}
		}
	})
}

// Who has no time left for an answer hears that there is none now: it may ask again.
func TestReadWithoutTime(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		w := r.hub.Watch(r.submit())
		defer w.Close()
		ctx, stop := context.WithTimeout(t.Context(), 0)
		defer stop()
		if _, err := w.Attach(ctx); !errors.Is(err, broker.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// attached is a waiter that has seen the request.
func attached(t *testing.T, r *room, id correlation.ID) *watch.Watch {
	t.Helper()
	w := r.hub.Watch(id)
	if _, err := w.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}
