package broker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// sharing has the requests of echo share their runs and replies.
func sharing(o *broker.Options) {
	o.Services = map[string]broker.ServiceConfig{"echo": {Coalesce: true, CacheTTL: time.Minute, CacheHeaders: []string{"Accept-Language"}}}
}

func cached(control broker.CacheControl) func(*broker.Submission) {
	return func(s *broker.Submission) { s.Cache = control }
}

func timeout(d time.Duration) func(*broker.Submission) {
	return func(s *broker.Submission) { s.Timeout = d }
}

// none says that no worker is given anything.
func none(t testing.TB, b *broker.Broker) {
	t.Helper()
	if got, err := b.Claim(t.Context(), "w2", []string{"echo"}, 1, time.Millisecond); len(got) > 0 || err != nil {
		t.Errorf("claimed %d, %v", len(got), err)
	}
}

func replyOf(r broker.Record) string {
	if r.Reply == nil {
		return "none"
	}
	return string(r.Reply.Body)
}

// Requests with the same content share one run: its events, its reply and its
// attempts, each under an ID of its own. The reply answers later ones at once.
func TestShare(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		first, second := submit(t, b, "x"), submit(t, b, "x")
		other := submit(t, b, "y")
		if first.Cache != broker.CacheMiss || second.Cache != broker.CacheShared || other.Cache != broker.CacheMiss || first.ID == second.ID {
			t.Fatalf("%q, %q, %q", first.Cache, second.Cache, other.Cache)
		}
		d := claim(t, b)
		if d.ID != first.ID.String() || string(d.Body) != "x" || d.Attempt != 1 {
			t.Fatalf("delivered %+v", d)
		}
		for _, id := range []correlation.ID{first.ID, second.ID} {
			if r := status(t, b, id); r.Status != broker.Running || r.Worker != "w1" || r.Started.IsZero() {
				t.Errorf("claimed, it is %+v", r)
			}
		}
		send(t, b, d, broker.WorkerReply{Type: "progress", ContentType: "text/plain", Body: []byte("half")})
		settle(t, b)
		third := submit(t, b, "x") // sees what was before
		if third.Status != broker.Running || third.Events != 1 {
			t.Errorf("who comes late finds it %s with %d events", third.Status, third.Events)
		}
		send(t, b, d, broker.WorkerReply{Type: "final", ContentType: "text/plain", StatusCode: 201, Headers: map[string]string{"x-page": "2"}, Body: []byte("done")})
		settle(t, b)
		hit := submit(t, b, "x")
		if hit.Cache != broker.CacheHit || hit.Status != broker.Succeeded || hit.CachedAt.IsZero() {
			t.Fatalf("the next is %+v", hit)
		}
		for _, id := range []correlation.ID{first.ID, second.ID, third.ID, hit.ID} {
			r, events, _, err := b.Events(t.Context(), id, 0)
			if err != nil || r.Status != broker.Succeeded || replyOf(r) != "done" || r.Reply.StatusCode != 201 || r.Reply.Headers["x-page"] != "2" || r.Events != 2 {
				t.Errorf("%s is %+v, %v", id, r, err)
			}
			if len(events) != 1 || string(events[0].Body) != "half" || events[0].Number != 1 {
				t.Errorf("%s has events %+v", id, events)
			}
			if whole, err := b.Reply(t.Context(), id); err != nil || replyOf(whole) != "done" {
				t.Errorf("%s: %q, %v", id, replyOf(whole), err)
			}
		}
		if r := status(t, b, other.ID); r.Status != broker.Queued {
			t.Errorf("the other is %s", r.Status)
		}
	})
}

// What tells requests apart, and what is none of the worker's business.
func TestShareByContent(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		submit(t, b, "x", timeout(time.Minute))
		language := func(tag string) func(*broker.Submission) {
			return func(s *broker.Submission) { s.Headers = map[string]string{"accept-language": tag, "x-trace": tag} }
		}
		for name, test := range map[string]struct {
			change func(*broker.Submission)
			cache  string
		}{
			"tags":         {func(s *broker.Submission) { s.Tags = []string{"a"}; s.Retention = time.Hour }, broker.CacheShared},
			"other header": {func(s *broker.Submission) { s.Headers = map[string]string{"x-trace": "1"} }, broker.CacheShared},
			"longer":       {timeout(90 * time.Second), broker.CacheShared},
			"tenant":       {func(s *broker.Submission) { s.Tenant = "acme" }, broker.CacheMiss},
			"content type": {func(s *broker.Submission) { s.ContentType = "text/html" }, broker.CacheMiss},
			"named header": {language("de"), broker.CacheMiss},
			"target":       {func(s *broker.Submission) { s.Headers = map[string]string{":path": "/a"} }, broker.CacheMiss},
			"ordering key": {func(s *broker.Submission) { s.OrderingKey = "k" }, ""},
			"delay":        {func(s *broker.Submission) { s.Delay = time.Hour }, ""},
			"no-store":     {cached(broker.CacheControl{NoStore: true}), ""},
			"its own key":  {func(s *broker.Submission) { s.ConcurrencyKey = "k" }, broker.CacheMiss},
			"idempotent":   {func(s *broker.Submission) { s.IdempotencyKey = "k" }, broker.CacheShared},
			"with max-age": {cached(broker.CacheControl{MaxAge: time.Second}), broker.CacheShared},
		} {
			if r := submit(t, b, "x", timeout(30*time.Second), test.change); r.Cache != test.cache {
				t.Errorf("%s: %q, want %q", name, r.Cache, test.cache)
			}
		}
		if r := submit(t, b, "x", timeout(time.Hour)); r.Cache != broker.CacheMiss {
			t.Errorf("one that wants more time: %q", r.Cache)
		}
		if r := submit(t, b, "x", timeout(90*time.Minute)); r.Cache != broker.CacheShared {
			t.Errorf("and the next: %q", r.Cache)
		}
	})
}

// Each has its own end; the run goes on for the rest, and stops with the last.
func TestShareLeft(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		first, second := submit(t, b, "x"), submit(t, b, "x")
		short := submit(t, b, "x", timeout(50*time.Millisecond))
		d := claim(t, b)
		if _, err := b.Cancel(t.Context(), first.ID); err != nil {
			t.Fatal(err)
		}
		if r := await(t, b, short.ID, broker.TimedOut); r.Reason != "total" {
			t.Errorf("it timed out by %q", r.Reason)
		}
		send(t, b, d, broker.WorkerReply{Type: "partial", Body: []byte("more")})
		settle(t, b)
		if r, events, _, err := b.Events(t.Context(), first.ID, 0); err != nil || r.Status != broker.Canceled || len(events) != 0 || r.Events != 1 {
			t.Errorf("canceled before, it has %d events, %v", len(events), err)
		}
		if n := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val(); n != 1 {
			t.Errorf("%d entries while one waits", n)
		}
		if _, err := b.Cancel(t.Context(), second.ID); err != nil {
			t.Fatal(err)
		}
		if n := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val(); n != 0 {
			t.Errorf("%d entries when the last has left", n)
		}
		send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("late")})
		if kinds := settle(t, b); !slices.Equal(kinds, []string{"late"}) {
			t.Errorf("the reply is %v", kinds)
		}
		if r := submit(t, b, "x"); r.Cache != broker.CacheMiss {
			t.Errorf("the next is a %q", r.Cache)
		}
	})
}

// A run that fails, or is tried again, does so for all; nothing of it is cached.
func TestShareFailure(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		first, second := submit(t, b, "x"), submit(t, b, "x")
		send(t, b, claim(t, b), broker.WorkerReply{Type: "retry", Delay: time.Millisecond, Error: &broker.Error{Message: "busy"}})
		settle(t, b)
		await(t, b, second.ID, broker.Queued)
		d := claim(t, b)
		for _, id := range []correlation.ID{first.ID, second.ID} {
			if r := status(t, b, id); r.Attempt != 2 || r.Status != broker.Running || len(r.Attempts) != 1 || r.Attempts[0].Error.Message != "busy" {
				t.Errorf("in the second attempt it is %+v", r)
			}
		}
		send(t, b, d, broker.WorkerReply{Type: "failed", Body: []byte("why"), Error: &broker.Error{Code: "no", Message: "it won't"}})
		settle(t, b)
		for _, id := range []correlation.ID{first.ID, second.ID} {
			if r := status(t, b, id); r.Status != broker.Failed || r.Error.Code != "no" || r.Attempt != 2 || len(r.Attempts) != 1 || replyOf(r) != "why" {
				t.Errorf("it is %+v", r)
			}
		}
		for _, id := range []correlation.ID{first.ID, second.ID} { // each is a dead letter of its own
			again, replayed, err := b.Retry(t.Context(), id)
			if d := claim(t, b); err != nil || replayed || again.RetryOf != id.String() || d.ID != again.ID.String() || string(d.Body) != "x" {
				t.Errorf("redriven as %+v, delivered as %+v, %v", again, d, err)
			}
		}
		if r := submit(t, b, "x"); r.Cache != broker.CacheMiss {
			t.Errorf("the next is a %q", r.Cache)
		}
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final", StatusCode: 404})
		settle(t, b)
		if r := submit(t, b, "x"); r.Cache != broker.CacheMiss {
			t.Errorf("after a 404 the next is a %q", r.Cache)
		}
	})
}

// Cache-Control of the client, and cache_ttl of the worker.
func TestCacheControl(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		only := broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", ContentType: "text/plain", Body: []byte("x"), Cache: broker.CacheControl{OnlyIfCached: true}}
		if _, _, err := b.Submit(t.Context(), only); !errors.Is(err, broker.ErrNotCached) {
			t.Errorf("only if cached: %v", err)
		}
		answered := func(ttl time.Duration, change ...func(*broker.Submission)) {
			t.Helper()
			if r := submit(t, b, "x", change...); r.Cache != broker.CacheMiss {
				t.Errorf("it is a %q", r.Cache)
			}
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("r"), CacheTTL: ttl})
			settle(t, b)
		}
		answered(-1)
		answered(30 * time.Millisecond)
		for submit(t, b, "x", cached(broker.CacheControl{MaxAge: time.Hour})).Cache == broker.CacheHit {
		} // for 30 ms
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("r")})
		settle(t, b)
		if r, _, err := b.Submit(t.Context(), only); err != nil || r.Cache != broker.CacheHit {
			t.Errorf("only if cached, and it is: %q, %v", r.Cache, err)
		}
		answered(0, cached(broker.CacheControl{NoCache: true}))
		for submit(t, b, "x", cached(broker.CacheControl{MaxAge: 20 * time.Millisecond})).Cache == broker.CacheHit {
		} // for 20 ms
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		settle(t, b)
		none(t, b)
	})
}

// A service that is not configured for it shares the replies that its worker allows.
func TestWorkerAllowsCache(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		if r := submit(t, b, "x"); r.Cache != "" {
			t.Errorf("it is a %q", r.Cache)
		}
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final", CacheTTL: time.Minute})
		if kinds := settle(t, b); !slices.Contains(kinds, "cacheable") {
			t.Errorf("the gateway learns of %v", kinds)
		}
		if err := broker.Refresh(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		first, second := submit(t, b, "x"), submit(t, b, "x")
		if first.Cache != broker.CacheMiss || second.Cache != broker.CacheMiss {
			t.Errorf("open ones are %q and %q", first.Cache, second.Cache)
		}
		for range 2 {
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("r"), CacheTTL: time.Minute})
		}
		settle(t, b)
		if r := submit(t, b, "x"); r.Cache != broker.CacheHit || replyOf(r) != "r" {
			t.Errorf("the next is a %q", r.Cache)
		}
	})
}

// A callback of each that asked for one, with the reply; progress too.
func TestShareCallbacks(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		call := func(events ...string) func(*broker.Submission) {
			return func(s *broker.Submission) { s.Callback = &broker.Callback{URL: "http://x/", Events: events} }
		}
		submit(t, b, "x")
		submit(t, b, "x", call("progress", "succeeded"))
		submit(t, b, "x", call("failed"))
		d := claim(t, b)
		send(t, b, d, broker.WorkerReply{Type: "progress", Body: []byte("1")})
		send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("2")})
		settle(t, b)
		submit(t, b, "x", call("succeeded"))
		var told []string
		for _, m := range redis.Client.XRange(t.Context(), "cc:{0}:callbacks", "-", "+").Val() {
			told = append(told, fmt.Sprint(m.Values["type"], " ", m.Values["number"]))
		}
		if diff := cmp.Diff([]string{"progress 1", "succeeded 2", "succeeded 2"}, told); diff != "" {
			t.Error(diff)
		}
	})
}

// Nothing is left when the last of those who share is forgotten, and what somebody
// wanted forgotten answers nobody.
func TestShareForgotten(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing, func(o *broker.Options) {
			s := o.Services["echo"]
			s.CacheTTL = 100 * time.Millisecond
			o.Services["echo"] = s
		})
		short := func(s *broker.Submission) { s.Retention = 50 * time.Millisecond }
		run := func(body string, longer ...func(*broker.Submission)) broker.Record {
			r := submit(t, b, body, append(longer, short)[0])
			submit(t, b, body, short)
			d := claim(t, b)
			send(t, b, d, broker.WorkerReply{Type: "progress", Body: []byte("1")})
			send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("2")})
			settle(t, b)
			return r
		}
		kept := submit(t, b, "kept", func(s *broker.Submission) { s.Retention = time.Minute })
		submit(t, b, "kept", short)
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("2")})
		settle(t, b)
		gone(t, b, redis, run("x").ID)
		for slices.ContainsFunc(redis.Keys(t), func(k string) bool { return strings.Contains(k, ":content:") }) {
		} // until the cache has forgotten too
		if r := status(t, b, kept.ID); replyOf(r) != "2" {
			t.Errorf("after all that was shorter its reply is %q", replyOf(r))
		}
		r := run("deleted", func(s *broker.Submission) { s.Retention = 4 * time.Second })
		if err := b.Delete(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		if next := submit(t, b, "deleted", short); next.Cache != broker.CacheMiss {
			t.Errorf("after a delete, the next is a %q", next.Cache)
		} else if err := b.Delete(t.Context(), next.ID); err != nil {
			t.Fatal(err)
		}
		for _, key := range redis.Keys(t) { // what is left is kept's, and expires with it
			if strings.Contains(key, ":request:") || strings.Contains(key, ":events:") || strings.Contains(key, ":content:") {
				if left := redis.Client.PTTL(t.Context(), key).Val(); left > time.Minute || left == -1 {
					t.Errorf("%s is left for %v", key, left)
				}
			}
		}
	})
}

// A run has at most 100 who share it: they all end in one script.
func TestShareCrowd(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		runs := 0
		var last broker.Record
		for range 130 {
			if last = submit(t, b, "x"); last.Cache == broker.CacheMiss {
				runs++
			}
		}
		if runs != 2 {
			t.Errorf("%d runs for 130", runs)
		}
		for range 2 {
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("r")})
		}
		settle(t, b)
		if r := status(t, b, last.ID); r.Status != broker.Succeeded {
			t.Errorf("the last is %s", r.Status)
		}
	})
}

// Each has clocks of its own, of the one run.
func TestShareClocks(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		patient := submit(t, b, "x")
		start := submit(t, b, "x", func(s *broker.Submission) { s.StartTimeout = 20 * time.Millisecond })
		if r := await(t, b, start.ID, broker.TimedOut); r.Reason != "start" {
			t.Errorf("it timed out by %q", r.Reason)
		}
		run := submit(t, b, "x", func(s *broker.Submission) { s.RunTimeout = 20 * time.Millisecond })
		claim(t, b)
		if r := await(t, b, run.ID, broker.TimedOut); r.Reason != "run" || r.Started.IsZero() {
			t.Errorf("it timed out by %q", r.Reason)
		}
		if r := status(t, b, patient.ID); r.Status != broker.Running {
			t.Errorf("the other is %s", r.Status)
		}
	})
}
