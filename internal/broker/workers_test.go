package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func enlist(t testing.TB, b *broker.Broker, e broker.Enlistment) (drain bool) {
	t.Helper()
	drain, err := b.Enlist(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return drain
}

// fresh waits until what is known of the workers may be read anew.
func fresh(t testing.TB) {
	t.Helper()
	select {
	case <-time.After(1010 * time.Millisecond): // the age of what is known, by the wall clock of a real server
	case <-t.Context().Done():
	}
}

func asWorker(name string) func(*broker.Options) {
	return func(o *broker.Options) { o.Name = name }
}

var echoAlone = map[string]broker.Description{"echo": {}}

// A worker is seen as long as it renews, tells what it has, and is gone at once
// when it says so.
func TestWorkers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b, w := open(t, r), open(t, r, asWorker("w1"))
		enlist(t, w, broker.Enlistment{Version: "1.4.2", Slots: 4, Services: map[string]broker.Description{"echo": {}, "other": {}}, First: true})
		// Any client of Redis can do it, in one command; what is no worker is ignored.
		for _, fields := range [][]string{
			{"name", "plain", "services", "echo bad/name echo"},
			{"name", "", "services", "echo"},
			{"name", "a b", "services", "echo"},
			{"name", strings.Repeat("x", 129), "services", "echo"},
			{"name", "idle"},
			{"nothing", "at all"},
		} {
			if err := r.Client.XAdd(t.Context(), xadd("cc:workers", fields...)).Err(); err != nil {
				t.Fatal(err)
			}
		}
		submit(t, b, "x")
		claim(t, w)
		workers, err := b.Workers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		byName := map[string]broker.Worker{}
		for _, w := range workers {
			byName[w.Name] = w
		}
		got := byName["w1"]
		if got.Version != "1.4.2" || got.Slots != 4 || !slices.Equal(got.Services, []string{"echo", "other"}) || got.Busy != 1 || !got.Obeys || !got.Announced || time.Since(got.Seen) > time.Minute {
			t.Errorf("%+v", got)
		}
		if got := byName["plain"]; got.Slots != 1 || !slices.Equal(got.Services, []string{"echo"}) || got.Obeys {
			t.Errorf("%+v", got)
		}
		if len(workers) != 3 {
			t.Errorf("%d workers: %+v", len(workers), workers)
		}
		if n, err := b.Slots(t.Context(), "echo"); n != 5 || err != nil {
			t.Errorf("%d slots, %v", n, err)
		}
		if n, err := b.Slots(t.Context(), "nobody"); n != 0 || err != nil {
			t.Errorf("%d slots of nobody, %v", n, err)
		}
		if err := w.Delist(t.Context()); err != nil {
			t.Fatal(err)
		}
		fresh(t)
		if n, err := b.Slots(t.Context(), "echo"); n != 1 || err != nil {
			t.Errorf("%d slots, %v", n, err)
		}
		if workers, err := b.WorkersOf(t.Context(), "echo"); err != nil || len(workers) != 2 || workers[1].Announced || workers[1].Busy != 1 {
			t.Errorf("what still holds a request is shown: %+v, %v", workers, err)
		}
	})
}

// What a worker does not renew ends, and leaves nothing behind; a gateway that
// begins to look later sees the same.
func TestWorkersAreForgotten(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b := open(t, r)
		old := time.Now().Add(-16 * time.Second)
		add := xadd("cc:workers", "name", "old", "services", "echo")
		add.ID = broker.EntryAt(old)
		if err := r.Client.XAdd(t.Context(), add).Err(); err != nil {
			t.Fatal(err)
		}
		if workers, err := b.Workers(t.Context()); err != nil || len(workers) != 0 {
			t.Errorf("%+v, %v", workers, err)
		}
		if err := b.Muster(t.Context()); err != nil || r.Client.XLen(t.Context(), "cc:workers").Val() != 1 {
			t.Errorf("announcements that a slow gateway may not have read: %d, %v", r.Client.XLen(t.Context(), "cc:workers").Val(), err)
		}
		r.Client.Del(t.Context(), "cc:workers")
		add.ID = broker.EntryAt(old.Add(-time.Minute))
		r.Client.XAdd(t.Context(), add)
		long := time.Now().Add(-25 * time.Hour).UnixMilli()
		r.Client.HSet(t.Context(), "cc:draining", "old", long, "new", time.Now().UnixMilli(), "strange", "x")
		if err := b.Muster(t.Context()); err != nil || r.Client.Exists(t.Context(), "cc:workers").Val() != 0 {
			t.Errorf("old announcements are kept, %v", err)
		}
		if left := r.Client.HKeys(t.Context(), "cc:draining").Val(); !slices.Equal(left, []string{"new"}) {
			t.Errorf("draining: %v", left)
		}
	})
}

// A worker that was told to drain hears of it at once and whenever it renews,
// until a new process begins under its name.
func TestDrainWorker(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b, w := open(t, r), open(t, r, asWorker("w1"))
		e := broker.Enlistment{Slots: 4, Services: echoAlone, First: true}
		if enlist(t, w, e) {
			t.Error("a new worker is to drain")
		}
		e.First = false
		ctx, stop := context.WithCancel(t.Context())
		told, listening, done := make(chan bool, 1), make(chan bool, 1), make(chan bool)
		go func() {
			w.Orders(ctx, []string{"echo"}, func(string) {}, func() { told <- true }, func() { listening <- true })
			close(done)
		}()
		defer func() { stop(); <-done }()
		<-listening
		if _, err := b.Drain(t.Context(), "nobody"); !errors.Is(err, broker.ErrUnknownWorker) {
			t.Errorf("%v", err)
		}
		got, err := b.Drain(t.Context(), "w1")
		if err != nil || !got.Draining || !got.Obeys {
			t.Errorf("%+v, %v", got, err)
		}
		select {
		case <-told:
		case <-time.After(5 * time.Second):
			t.Error("it was not told")
		}
		if !enlist(t, w, e) {
			t.Error("its renewal does not tell")
		}
		if n, err := b.Slots(t.Context(), "echo"); n != 0 || err != nil {
			t.Errorf("%d slots, %v", n, err)
		}
		if n, ok := b.LiveWorkers(t.Context(), "echo"); n != 0 || !ok {
			t.Errorf("%d live workers, %v", n, ok)
		}
		e.First = true
		if enlist(t, w, e) {
			t.Error("what the process before was told holds for the new one")
		}
	})
}

// Descriptions are written once, come back after Redis lost them, and what is
// none is left out.
func TestDescribe(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b, w := open(t, r), open(t, r, asWorker("w1"))
		e := broker.Enlistment{Slots: 1, First: true, Services: map[string]broker.Description{
			"echo": {Description: "Gives back.", Request: json.RawMessage(`{"type":"object"}`)}, "bare": {},
		}}
		check := func() {
			t.Helper()
			enlist(t, w, e)
			got, err := b.Describe(t.Context(), "echo")
			if err != nil || got.Description != "Gives back." || string(got.Request) != `{"type":"object"}` || got.Reply != nil {
				t.Errorf("%+v, %v", got, err)
			}
		}
		check()
		e.First = false
		r.Client.FlushAll(t.Context())
		check()
		if fields := r.Client.HKeys(t.Context(), "cc:descriptions").Val(); !slices.Equal(fields, []string{"echo"}) {
			t.Errorf("described: %v", fields)
		}
		for _, strange := range []string{"", "{", "[]", `{"description":1}`, `{"request":[],"reply":7}`, `{"reply":"` + strings.Repeat("x", 70_000) + `"}`} {
			r.Client.HSet(t.Context(), "cc:descriptions", "echo", strange)
			if got, err := b.Describe(t.Context(), "echo"); err != nil || got.Description != "" || got.Request != nil || got.Reply != nil {
				t.Errorf("%.30s: %+v, %v", strange, got, err)
			}
		}
	})
}

// A full Redis sees who works all the same.
func TestEnlistWhenFull(t *testing.T) {
	r := redistest.Start(t)
	w, b := open(t, r, asWorker("w1")), open(t, r)
	enlist(t, w, broker.Enlistment{Slots: 1, Services: echoAlone, First: true})
	r.Client.ConfigSet(t.Context(), "maxmemory", "1mb")
	if err := r.Client.Set(t.Context(), "x", "y", 0).Err(); err == nil {
		t.Fatal("Redis is not full")
	}
	enlist(t, w, broker.Enlistment{Slots: 7, Services: echoAlone})
	if n, err := b.Slots(t.Context(), "echo"); n != 7 || err != nil {
		t.Errorf("%d slots, %v", n, err)
	}
}
