package watch_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// room is a hub on an embedded Redis inside a bubble, where time stands still.
type room struct {
	t      *testing.T
	redis  *miniredis.Miniredis
	broker *broker.Broker
	hub    *watch.Hub

	mu      sync.Mutex // guards the rest
	reads   int        // scripts that Redis ran
	looks   int        // of them, those that read one record
	away    bool       // Redis refuses everything
	refused int        // reads of a record that will fail
	cut     bool       // the next script does not run, and its connection ends

	hold chan struct{} // scripts wait until it is closed; nil: they don't
}

// inside runs a test in a bubble, with everything running and at rest.
func inside(t *testing.T, test func(*testing.T, *room)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		mini, dial := redistest.Pipe(t)
		b, err := broker.Open(t.Context(), broker.Options{
			URL: "redis://pipe:1", Dial: dial, Services: map[string]broker.ServiceConfig{"echo": {}},
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		r := &room{t: t, redis: mini.Miniredis, broker: b, hub: watch.New(b, slog.New(slog.DiscardHandler))}
		mini.Hook(r.hook)
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { b.Run(ctx) })
		all.Go(func() { r.hub.Run(ctx) })
		synctest.Wait()
		defer func() {
			stop()
			all.Wait()
			b.Close()
			mini.Close()
			synctest.Wait()
		}()
		test(t, r)
	})
}

// read is how many records an EVALSHA reads, which is that of status.lua if any.
func read(args []string) int {
	if len(args) < 8 || args[4] != strconv.Itoa(broker.InlineReply) { // digest, 1, key, prefix, inline, gateway, pairs
		return 0
	}
	return (len(args) - 6) / 2
}

func (r *room) hook(c *server.Peer, cmd string, args ...string) bool {
	script := strings.EqualFold(cmd, "EVALSHA")
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if script && hold != nil {
		<-hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if script {
		r.reads++
	}
	if script && r.cut {
		r.cut = false
		c.Close()
		return true
	}
	refuse := r.away
	if n := read(args); script && n > 0 {
		r.looks += n
		if r.refused > 0 {
			r.refused--
			refuse = true
		}
	}
	if refuse {
		c.WriteError("LOADING not now")
	}
	return refuse
}

func (r *room) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *room) submit() correlation.ID {
	r.t.Helper()
	record, _, err := r.broker.Submit(r.t.Context(), broker.Submission{Tenant: broker.DefaultTenant, Service: "echo"})
	if err != nil {
		r.t.Fatal(err)
	}
	return record.ID
}

// claim has a worker take the request; nobody is told of that.
func (r *room) claim() broker.Delivery {
	r.t.Helper()
	got, err := r.broker.Claim(r.t.Context(), "w1", []string{"echo"}, 1, time.Second)
	if err != nil || len(got) != 1 {
		r.t.Fatalf("claim: %d, %v", len(got), err)
	}
	return got[0]
}

func (r *room) reply(d broker.Delivery, kind string) {
	r.t.Helper()
	r.send(d, broker.WorkerReply{Type: kind, Body: []byte("hi")})
}

func (r *room) send(d broker.Delivery, reply broker.WorkerReply) {
	r.t.Helper()
	if err := r.broker.Send(r.t.Context(), d, reply); err != nil {
		r.t.Fatal(err)
	}
	if _, _, err := r.broker.Settle(r.t.Context(), 0); err != nil {
		r.t.Fatal(err)
	}
}

// terminal is what every wait ends with, so nothing else is enough.
func terminal(broker.Record) bool { return false }

// found is what a wait came back with.
type found struct {
	record broker.Record
	err    error
	after  time.Duration
}

func (r *room) wait(id correlation.ID, limit time.Duration, enough func(broker.Record) bool) <-chan found {
	out, begun := make(chan found, 1), time.Now()
	go func() {
		record, err := r.hub.Wait(context.Background(), id, limit, enough)
		out <- found{record, err, time.Since(begun)}
	}()
	return out
}

func TestWaitEndsWithTheOutcome(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		waited := r.wait(id, time.Minute, terminal)
		synctest.Wait()
		if waiters, requests := r.hub.Waiters(); waiters != 1 || requests != 1 {
			t.Errorf("%d waiters on %d requests", waiters, requests)
		}
		time.Sleep(3 * time.Second)
		r.reply(r.claim(), "final")
		got := <-waited
		if got.err != nil || got.record.Status != broker.Succeeded || got.after != 3*time.Second {
			t.Errorf("%s after %v, %v", got.record.Status, got.after, got.err)
		}
		synctest.Wait()
		if waiters, requests := r.hub.Waiters(); waiters != 0 || requests != 0 {
			t.Errorf("left behind: %d waiters on %d requests", waiters, requests)
		}
	})
}

// TestWaitBringsTheNewest: when the time is over a wait answers with what is,
// also with a claim, of which no hint tells.
func TestWaitBringsTheNewest(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		waited := r.wait(id, 2*time.Second, terminal)
		synctest.Wait()
		r.claim()
		got := <-waited
		if got.err != nil || got.record.Status != broker.Running || got.after != 2*time.Second {
			t.Errorf("%s after %v, %v", got.record.Status, got.after, got.err)
		}
	})
}

func TestLostHintIsMadeUpFor(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		first := r.wait(id, time.Minute, terminal)
		synctest.Wait()
		if _, err := r.broker.Attach(t.Context(), id); err != nil { // another reader sees nothing new
			t.Fatal(err)
		}
		if err := r.broker.Detach(t.Context(), id); err != nil { // nobody will be woken
			t.Fatal(err)
		}
		r.reply(r.claim(), "final")
		// A second waiter reads the news first: the other must not be forgotten.
		second := r.wait(id, time.Minute, terminal)
		for name, waited := range map[string]<-chan found{"first": first, "second": second} {
			if got := <-waited; got.record.Status != broker.Succeeded || got.after > 5*time.Second {
				t.Errorf("%s: %s after %v, %v", name, got.record.Status, got.after, got.err)
			}
		}
	})
}

func TestClaimIsSeenWithinSeconds(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		waited := r.wait(id, time.Minute, func(now broker.Record) bool { return now.Status == broker.Running })
		synctest.Wait()
		r.claim()
		if got := <-waited; got.record.Status != broker.Running || got.after > 5*time.Second {
			t.Errorf("%s after %v, %v", got.record.Status, got.after, got.err)
		}
	})
}

func TestManyWaitersShareOneRead(t *testing.T) {
	const many = 500
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		var waits []<-chan found
		for range many {
			waits = append(waits, r.wait(id, time.Minute, terminal))
		}
		synctest.Wait()
		d := r.claim()
		r.set(func() { r.reads = 0 })
		r.reply(d, "final") // one settle
		for _, waited := range waits {
			if got := <-waited; got.record.Status != broker.Succeeded {
				t.Fatalf("%s, %v", got.record.Status, got.err)
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if reads := r.reads - 1; reads > many/10 { // as many as leave while the crowd wakes up
			t.Errorf("%d waiters caused %d reads", many, reads)
		}
	})
}

func TestOutageIsWaitedOut(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		waited := r.wait(id, time.Minute, terminal)
		synctest.Wait()
		d := r.claim()
		r.set(func() { r.away = true })
		time.Sleep(20 * time.Second)
		if _, err := r.hub.Wait(t.Context(), id, time.Hour, terminal); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("a wait that begins without Redis: %v", err)
		}
		select {
		case got := <-waited:
			t.Fatalf("the wait ended: %s, %v", got.record.Status, got.err)
		default:
		}
		r.set(func() { r.away = false })
		time.Sleep(2 * time.Second)
		back := time.Now()
		r.reply(d, "final")
		if got := <-waited; got.record.Status != broker.Succeeded || time.Since(back) > 2*time.Second {
			t.Errorf("%s, %v, %v after Redis came back", got.record.Status, got.err, time.Since(back))
		}
	})
}

func TestFailedReadIsTriedAgain(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		waited := r.wait(r.submit(), time.Minute, terminal)
		synctest.Wait()
		d := r.claim()
		r.set(func() { r.refused = 1 })
		r.send(d, broker.WorkerReply{Type: "final", Body: make([]byte, broker.InlineReply+1)}) // too large to be told
		if got := <-waited; got.record.Status != broker.Succeeded || got.after > 2*time.Second {
			t.Errorf("%s after %v, %v", got.record.Status, got.after, got.err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.refused != 0 {
			t.Error("no read was refused")
		}
	})
}

func TestGoneEndsAWait(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		waited := r.wait(id, time.Minute, terminal)
		synctest.Wait()
		if err := r.broker.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if got := <-waited; got.err == nil && got.record.Status != broker.Canceled || got.after > time.Second {
			t.Errorf("%s after %v, %v", got.record.Status, got.after, got.err)
		}
		if _, err := r.hub.Wait(t.Context(), id, time.Hour, terminal); !errors.Is(err, broker.ErrGone) {
			t.Errorf("a wait for what is gone: %v", err)
		}
	})
}

func TestDrainLetsGo(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		waited := r.wait(r.submit(), time.Minute, terminal)
		synctest.Wait()
		r.hub.Drain()
		r.hub.Drain() // once more does no harm
		if got := <-waited; got.err != nil || got.record.Status != broker.Queued || got.after != 0 {
			t.Errorf("%s after %v, %v", got.record.Status, got.after, got.err)
		}
		select {
		case <-r.hub.Draining():
		default:
			t.Error("streams are not told")
		}
	})
}

// TestSlowReaderHoldsNobodyUp: a watch that is never read takes one hint and
// drops the rest.
func TestSlowReaderHoldsNobodyUp(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		id := r.submit()
		slow := r.hub.Watch(id)
		defer slow.Close()
		if _, err := slow.Attach(t.Context()); err != nil {
			t.Fatal(err)
		}
		d := r.claim()
		for range 10 {
			r.reply(d, "progress")
		}
		waited := r.wait(id, time.Minute, terminal)
		synctest.Wait()
		r.reply(d, "final")
		if got := <-waited; got.record.Status != broker.Succeeded || got.after != 0 {
			t.Errorf("%s after %v, %v", got.record.Status, got.after, got.err)
		}
		if n := len(slow.Again()); n != 1 {
			t.Errorf("%d hints kept", n)
		}
		a, err := slow.Events(t.Context(), 4)
		if err != nil || len(a.Events) != 6 || a.Events[0].Number != 5 || a.First != 1 || a.Record.Events != 11 {
			t.Errorf("%d events from %d, %+v, %v", len(a.Events), a.First, a.Record, err)
		}
	})
}

// TestLeaverTakesNothingAlong: the last waiter detaches the process while the
// next one is just arriving, in whatever order Redis sees the two.
func TestLeaverTakesNothingAlong(t *testing.T) {
	inside(t, func(t *testing.T, r *room) {
		for range 100 {
			id := r.submit()
			leaving := r.hub.Watch(id)
			if _, err := leaving.Attach(t.Context()); err != nil {
				t.Fatal(err)
			}
			go leaving.Close()
			waited := r.wait(id, time.Minute, terminal)
			synctest.Wait()
			r.reply(r.claim(), "final")
			if got := <-waited; got.record.Status != broker.Succeeded || got.after != 0 {
				t.Fatalf("%s after %v, %v", got.record.Status, got.after, got.err)
			}
		}
	})
}
