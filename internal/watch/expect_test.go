package watch_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// expect hands a request in whose reply is waited for here for sure.
func (r *room) expect() correlation.ID {
	r.t.Helper()
	record, _, err := r.broker.Submit(r.t.Context(), broker.Submission{
		Tenant: broker.DefaultTenant, Service: "echo", Await: r.hub.Expect("echo", true),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.set(func() { r.looks = 0 })
	return record.ID
}

func (r *room) looked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.looks
}

// TestExpectedIsNotRead by who waits for what was handed in here, before its outcome
// and, for a moment, after it: they are shown what a read brings.
func TestExpectedIsNotRead(t *testing.T) {
	for name, before := range map[string]bool{"waiting before its outcome": true, "coming after it": false} {
		t.Run(name, func(t *testing.T) {
			inside(t, func(t *testing.T, r *room) {
				id := r.expect()
				var waited <-chan found
				if before {
					waited = r.wait(id, time.Minute, nil)
					synctest.Wait()
				}
				r.reply(r.claim(), "final")
				if !before {
					waited = r.wait(id, time.Minute, nil)
				}
				got := <-waited
				if n := r.looked(); n > 0 {
					t.Errorf("%d reads", n)
				}
				read, err := r.broker.Status(t.Context(), id)
				if diff := cmp.Diff(read, got.record); err != nil || got.err != nil || diff != "" {
					t.Errorf("read, shown: %s, %v, %v", diff, err, got.err)
				}
			})
		})
	}
}

// TestExpectedIsReadWhereItMayBeOld: what a read brings may be another.
func TestExpectedIsReadWhereItMayBeOld(t *testing.T) {
	cases := map[string]struct {
		before func(*room, correlation.ID)
		want   broker.Status
		err    error
	}{
		"not young any more": {before: func(r *room, _ correlation.ID) {
			r.reply(r.claim(), "final")
			time.Sleep(broker.Young)
		}, want: broker.Succeeded},
		"deleted after that": {before: func(r *room, id correlation.ID) {
			r.reply(r.claim(), "final")
			if err := r.broker.Delete(r.t.Context(), id); err != nil {
				r.t.Error(err)
			}
		}, err: broker.ErrGone},
		"deleted while it was open": {before: func(r *room, id correlation.ID) {
			if err := r.broker.Delete(r.t.Context(), id); err != nil {
				r.t.Error(err)
			}
			synctest.Wait()
		}, err: broker.ErrGone},
		"failed, and may be redriven": {before: func(r *room, _ correlation.ID) {
			r.reply(r.claim(), "failed")
		}, want: broker.Failed},
		"with a large reply": {before: func(r *room, _ correlation.ID) {
			r.send(r.claim(), broker.WorkerReply{Type: "final", Body: make([]byte, 5000)})
		}, want: broker.Succeeded},
		"with an event": {before: func(r *room, _ correlation.ID) {
			d := r.claim()
			r.reply(d, "progress")
			r.reply(d, "final")
		}, want: broker.Succeeded},
		"hints may have been lost": {before: func(r *room, _ correlation.ID) {
			d := r.claim()
			if err := r.broker.Send(r.t.Context(), d, broker.WorkerReply{Type: "final"}); err != nil {
				r.t.Error(err)
			}
			r.set(func() { r.cut = true })
			if _, _, err := r.broker.Settle(r.t.Context(), 0); err == nil {
				r.t.Error("the settle had its answer")
			}
			r.reply(d, "final") // again, which settles both
		}, want: broker.Succeeded},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			inside(t, func(t *testing.T, r *room) {
				id := r.expect()
				c.before(r, id)
				got := <-r.wait(id, time.Minute, nil)
				if !errors.Is(got.err, c.err) || got.record.Status != c.want {
					t.Errorf("%s, %v", got.record.Status, got.err)
				}
				if r.looked() == 0 {
					t.Error("nothing was read")
				}
			})
		})
	}
}

// TestUnreadIsNotShown: a wait that ends without an outcome shows where the request
// stands, not where it stood when it was handed in, or says that it can't tell.
func TestUnreadIsNotShown(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		over := r.wait(r.expect(), 100*time.Millisecond, nil)
		r.claim()
		if got := <-over; got.record.Status != broker.Running || got.err != nil {
			t.Errorf("when the time is over: %s, %v", got.record.Status, got.err)
		}
		away := r.wait(r.expect(), 100*time.Millisecond, nil)
		synctest.Wait()
		r.set(func() { r.away = true })
		if got := <-away; !errors.Is(got.err, broker.ErrUnavailable) {
			t.Errorf("while Redis is away: %s, %v", got.record.Status, got.err)
		}
		r.set(func() { r.away = false })
		time.Sleep(5 * time.Second)
		drained := r.wait(r.expect(), time.Minute, nil)
		synctest.Wait()
		r.claim()
		r.claim()
		r.hub.Drain()
		if got := <-drained; got.record.Status != broker.Running || got.err != nil {
			t.Errorf("when the process drains: %s, %v", got.record.Status, got.err)
		}
	})
}

// TestKnownStatusIsCompared with where the request stands: who knows one waits for another.
func TestKnownStatusIsCompared(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.expect()
		r.claim()
		got := <-r.wait(id, time.Minute, func(now broker.Record) bool { return now.Status == broker.Running })
		if got.record.Status != broker.Running || got.after > 0 {
			t.Errorf("%s after %s, %v", got.record.Status, got.after, got.err)
		}
	})
}

// TestStreamRests for the outcome of what was handed in here, and reads where it does not
// come at once.
func TestStreamRests(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		const moment = 20 * time.Millisecond
		for name, soon := range map[string]bool{"soon": true, "late": false} {
			w := r.hub.Watch(r.expect())
			begun := time.Now()
			d := r.claim()
			if soon {
				time.AfterFunc(moment/2, func() { r.reply(d, "final") })
			}
			w.Rest(t.Context().Done(), moment)
			rested := time.Since(begun)
			record, err := w.Attach(context.WithoutCancel(t.Context()))
			if err != nil || record.Status.Terminal() != soon || (r.looked() == 0) != soon || (rested < moment) != soon {
				t.Errorf("%s: %s after %s and %d reads, %v", name, record.Status, rested, r.looked(), err)
			}
			w.Close()
		}
		w := r.hub.Watch(r.submit())
		defer w.Close()
		begun := time.Now()
		if w.Rest(t.Context().Done(), moment); time.Since(begun) > 0 {
			t.Error("it rests for what is not expected")
		}
	})
}

// TestHabit: a service is expected where its requests are waited for here.
func TestHabit(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		attaches := func(wait bool) (n int) {
			for range 500 {
				e := r.hub.Expect("echo", false)
				if e == nil {
					continue
				}
				id := correlation.Keyring{correlation.NewKey()}.Mint(time.Now(), 0, "")
				if e.Minted(id) {
					n++
				}
				e.Stored(broker.Record{ID: id})
				if wait {
					r.hub.Watch(id).Close()
				}
				time.Sleep(broker.Young)
			}
			return n
		}
		if n := attaches(false); n > 0 {
			t.Errorf("%d of 500 while nobody waited", n)
		}
		if n := attaches(true); n < 300 {
			t.Errorf("%d of 500 while all were waited for", n)
		}
		if n := attaches(false); n > 30 {
			t.Errorf("%d of 500 after that", n)
		}
	})
}

// TestExpectedIsBounded: what nobody waits for does not pile up.
func TestExpectedIsBounded(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		first := r.expect()
		for range 4096 {
			r.hub.Expect("echo", true).Minted(correlation.Keyring{correlation.NewKey()}.Mint(time.Now(), 0, ""))
		}
		r.reply(r.claim(), "final")
		if got := <-r.wait(first, time.Minute, nil); got.err != nil || r.looked() == 0 {
			t.Errorf("the first is still expected: %v", got.err)
		}
	})
}
