package broker_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A foreign worker may write any name; only what fits URLs and keys is a service.
func TestMisnamedServiceIsIgnored(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		for _, name := range []string{"Loud", "a b", "a}{1", "fine"} {
			if err := r.Client.HSet(t.Context(), "cc:services", name, "{}").Err(); err != nil {
				t.Fatal(err)
			}
		}
		b := open(t, r)
		for name, want := range map[string]bool{"Loud": false, "a b": false, "a}{1": false, "fine": true, "echo": true} {
			if known, err := b.KnowsService(t.Context(), name); err != nil || known != want {
				t.Errorf("%q: known %v, %v", name, known, err)
			}
		}
		if got := b.Services(); !slices.Equal(got, []string{"echo", "fine"}) {
			t.Errorf("services %v", got)
		}
		for _, key := range r.Keys(t) {
			if strings.Contains(key, "queue:") && !strings.HasSuffix(key, ":echo") && !strings.HasSuffix(key, ":fine") {
				t.Errorf("made the stream %s", key)
			}
		}
	})
}

func TestMisnamedServiceIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini, dial := redistest.Pipe(t)
		mini.HSet("cc:services", "Loud", "{}")
		var log bytes.Buffer
		b, err := broker.Open(t.Context(), broker.Options{URL: "redis://pipe:1", Dial: dial, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second) // the services are read every second
		defer stop()
		if err := errors.Join(b.Run(ctx), b.Close()); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(log.String(), "Loud"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log.String())
		}
	})
}

// One stream that can't be made must not keep a gateway from starting, nor the
// other services from being known.
func TestStreamThatRedisRefuses(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		if err := r.Client.Set(t.Context(), "cc:{0}:queue:bad", "no stream", 0).Err(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"bad", "fine"} {
			if err := r.Client.HSet(t.Context(), "cc:services", name, "{}").Err(); err != nil {
				t.Fatal(err)
			}
		}
		b := open(t, r)
		if got := b.Services(); !slices.Equal(got, []string{"bad", "echo", "fine"}) {
			t.Errorf("services %v", got)
		}
		for _, name := range []string{"echo", "fine"} {
			if n, err := r.Client.Exists(t.Context(), "cc:{0}:queue:"+name).Result(); n != 1 || err != nil {
				t.Errorf("%s has no stream: %v", name, err)
			}
		}
		if _, err := b.Lapse(t.Context(), 0, "bad"); err != nil {
			t.Errorf("it holds up the leases of the others: %v", err)
		}
		if _, _, err := b.Sweep(t.Context(), 0, "bad", ""); err != nil {
			t.Errorf("it holds up the sweep of the others: %v", err)
		}
	})
}

// At its limit Redis takes cancels and deletes, which make room: a gateway that
// starts then must be there for them.
func TestOpenOnAFullRedis(t *testing.T) {
	r := redistest.Start(t)
	open(t, r)
	if err := r.Client.ConfigSet(t.Context(), "maxmemory", "1mb").Err(); err != nil {
		t.Fatal(err)
	}
	if err := r.Client.Set(t.Context(), "x", "y", 0).Err(); err == nil {
		t.Fatal("it is not full")
	}
	b := open(t, r)
	if known, err := b.KnowsService(t.Context(), "echo"); err != nil || !known {
		t.Errorf("echo: known %v, %v", known, err)
	}
}

// A service that was announced just now is known, however short ago this process
// has asked.
func TestServiceJustAnnounced(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b, other := open(t, r), open(t, r)
		for _, name := range []string{"first", "second", "third"} {
			if known, err := b.KnowsService(t.Context(), name); err != nil || known {
				t.Errorf("%s before it is announced: %v, %v", name, known, err)
			}
			if err := other.Announce(t.Context(), map[string]broker.Announcement{name: {}}); err != nil {
				t.Fatal(err)
			}
			if known, err := b.KnowsService(t.Context(), name); err != nil || !known {
				t.Errorf("%s: %v, %v", name, known, err)
			}
		}
	})
}

// Busy finds what upkeep must look at, and thoroughly also what others did.
func TestBusy(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b := open(t, r)
		want := func(what string, thorough bool, names ...string) {
			t.Helper()
			if got, err := b.Busy(t.Context(), 0, thorough); err != nil || !slices.Equal(got, names) {
				t.Errorf("%s: %v, %v, want %v", what, got, err, names)
			}
		}
		if err := b.Announce(t.Context(), map[string]broker.Announcement{"other": {}}); err != nil {
			t.Fatal(err)
		}
		if known, err := b.KnowsService(t.Context(), "other"); err != nil || !known {
			t.Fatal(known, err)
		}
		want("nothing to do", true)
		submit(t, b, "x")
		want("queued", false, "echo")
		claim(t, b)
		want("claimed", false, "echo")
		if err := r.Client.XGroupDestroy(t.Context(), "cc:{0}:queue:other", "workers").Err(); err != nil {
			t.Fatal(err)
		}
		want("without a group", false, "echo")
		want("without a group, looked at closer", true, "echo", "other")
		if err := r.Client.Set(t.Context(), "cc:{0}:queue:other", "no stream", 0).Err(); err != nil {
			t.Fatal(err)
		}
		want("no stream at all", false, "echo", "other")
		if err := r.Client.XTrimMaxLen(t.Context(), "cc:{0}:queue:echo", 0).Err(); err != nil {
			t.Fatal(err)
		}
		want("deleted by somebody", false, "other")
		if left, err := r.Client.XPending(t.Context(), "cc:{0}:queue:echo", "workers").Result(); err != nil || left.Count > 0 { // an embedded Redis forgets it too
			want("deleted by somebody, looked at closer", true, "echo", "other")
		}
	})
}
