package httpapi_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

func TestCacheControlHeader(t *testing.T) {
	s := httpapi.New(httpapi.Options{})
	for text, want := range map[string]broker.CacheControl{
		"":                               {},
		"no-cache":                       {NoCache: true},
		"No-Store , only-if-cached":      {NoStore: true, OnlyIfCached: true},
		"max-age=60":                     {MaxAge: time.Minute},
		`max-age="60", max-age=30`:       {MaxAge: 30 * time.Second},
		"max-age=0":                      {NoCache: true},
		"max-age=soon":                   {NoCache: true},
		"max-age":                        {NoCache: true},
		"max-age=99999999999999999999":   {NoCache: true},
		"max-age=9999999999999":          {MaxAge: 365 * 24 * time.Hour},
		"max-stale=5, min-fresh, what=,": {},
		`what="no-store, no-cache"`:      {},
	} {
		sub, err := httpapi.Submission(s, http.Header{"Cache-Control": {text}})
		if diff := cmp.Diff(want, sub.Cache); diff != "" || err != nil {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
}

// cacheable has the gateway know that replies of the service may be cached.
func (f *front) cacheable() {
	f.t.Helper()
	if err := f.broker.Announce(f.t.Context(), map[string]broker.Announcement{"echo": {Cacheable: true}}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *front) how(want string, a answer) answer {
	f.t.Helper()
	if got := a.Header.Get("Coatcheck-Cache") + " " + a.Header.Get("Age"); got != want {
		f.t.Errorf("it is %q, want %q", got, want)
	}
	return a
}

// An answer says how it came about, the status and the reply too.
func TestCacheOnTheWire(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		f.cacheable()
		const path = "/v1/services/echo/requests"
		f.post(path, "x", "Cache-Control: only-if-cached").problem(t, "not-cached")
		first := f.how("miss ", f.post(path, "x")).status(t)
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		got, err := f.broker.Claim(ctx, "w1", []string{"echo"}, 1, time.Second)
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		f.send(got[0], broker.WorkerReply{Type: "final", ContentType: "text/plain", Body: []byte("X"), CacheTTL: time.Minute})
		synctest.Wait()
		f.how("miss ", f.get(first.Links.Reply))
		time.Sleep(3 * time.Second)
		hit := f.how("hit 3", f.post(path, "x")).status(t)
		if hit.Status != "succeeded" || hit.Cache != "hit" || time.Time(hit.CachedAt).IsZero() || string(hit.Reply.Body) != `"X"` {
			t.Errorf("the hit is %+v", hit)
		}
		waited := f.how("hit 3", f.post(path, "x", "Prefer: wait=5"))
		if waited.StatusCode != 200 || string(waited.body) != "X" || waited.Header.Get("Preference-Applied") != "wait=5" {
			t.Errorf("waited for: %d %s", waited.StatusCode, waited.body)
		}
		time.Sleep(2 * time.Second)
		if reply := f.how("hit 5", f.get(hit.Links.Reply)); string(reply.body) != "X" {
			t.Errorf("its reply is %q", reply.body)
		}
		f.how("hit 5", f.post(path, "x", "Cache-Control: max-age=6"))
		f.how("miss ", f.post(path, "x", "Cache-Control: max-age=4"))
		f.how("miss ", f.post(path, "x", "Cache-Control: no-cache"))
		f.how(" ", f.post(path, "x", "Cache-Control: no-store"))
		f.how("hit 5", f.post(path, "x", "Cache-Control: only-if-cached", "Idempotency-Key: k"))
		if again := f.how("hit 5", f.post(path, "x", "Idempotency-Key: k")); again.Header.Get("Idempotency-Replayed") != "true" {
			t.Error("the same key is another request")
		}
		time.Sleep(time.Minute)
		f.how("miss ", f.post(path, "x"))
	})
}
