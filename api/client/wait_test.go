package client_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

// rested is a long-poll that ends without an outcome after d.
func rested(d time.Duration, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(d) // of the bubble
		answer(queued(), header...)(w, r)
	}
}

func TestWaitPollsUntilTheOutcome(t *testing.T) {
	done := func(w http.ResponseWriter, r *http.Request) { answer(succeeded())(w, r) }
	for name, c := range map[string]struct {
		script []http.HandlerFunc
		at     []time.Duration // of the calls
	}{
		"rested long enough": {[]http.HandlerFunc{rested(30*time.Second, "Retry-After", "2"), done}, []time.Duration{0, 30 * time.Second}},
		"came back early":    {[]http.HandlerFunc{rested(time.Second, "Retry-After", "5"), done}, []time.Duration{0, 5 * time.Second}},
		"says nothing":       {[]http.HandlerFunc{rested(0), rested(0), done}, []time.Duration{0, 200 * time.Millisecond, 400 * time.Millisecond}},
		"an outage between":  {[]http.HandlerFunc{rested(30 * time.Second), problem("unavailable", 4), done}, []time.Duration{0, 30 * time.Second, 34 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{script: c.script}
				s, err := start(t, f).Wait(t.Context(), id)
				if err != nil || s.Status != api.Succeeded {
					t.Fatalf("%+v, %v", s, err)
				}
				calls := f.asked()
				for n, call := range calls {
					if len(calls) != len(c.at) || call.at != c.at[n] || call.path != "/v1/requests/"+id+"?wait=30s" {
						t.Errorf("call %d of %d: %s at %v, want %v", n, len(calls), call.path, call.at, c.at)
					}
				}
			})
		})
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, &fake{script: []http.HandlerFunc{rested(0, "Retry-After", "2"), func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}})
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		s, err := c.Wait(ctx, id)
		if !errors.Is(err, context.DeadlineExceeded) || s.Status != api.Queued {
			t.Errorf("%+v, %v: want the last status and the reason", s, err)
		}
	})
}

func TestReplyIsTheWorkersOwn(t *testing.T) {
	raw := func(status int, media, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(api.HeaderOutcome, "succeeded")
			w.Header().Set(api.HeaderCorrelationID, id)
			w.Header().Set("Content-Type", media)
			w.WriteHeader(status)
			w.Write([]byte(body))
		}
	}
	problemLike := `{"type":"/problems/unavailable","title":"mine","status":503}`
	for name, want := range map[string]client.Reply{
		"plain":             {StatusCode: 200, ContentType: "text/plain", Body: []byte("hi")},
		"like a problem":    {StatusCode: 503, ContentType: "application/problem+json", Body: []byte(problemLike)},
		"like a pending":    {StatusCode: 202, ContentType: "application/json", Body: []byte(`{"status":"queued"}`)},
		"binary and a code": {StatusCode: 418, ContentType: "application/octet-stream", Body: []byte("\x00\xff")},
		"empty":             {StatusCode: 200, ContentType: "text/plain", Body: []byte{}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{script: []http.HandlerFunc{
					cut(http.StatusOK, "text/plain", "half"), raw(want.StatusCode, want.ContentType, string(want.Body)),
				}}
				f.script[0] = func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set(api.HeaderOutcome, "succeeded")
					cut(http.StatusOK, "text/plain", "half")(w, r)
				}
				got, err := start(t, f, client.MaxReply(int64(len(problemLike)))).Reply(t.Context(), id)
				if err != nil || got.StatusCode != want.StatusCode || got.ContentType != want.ContentType || string(got.Body) != string(want.Body) {
					t.Errorf("%+v, %v; want %+v", got, err, want)
				}
				if len(f.asked()) != 2 {
					t.Errorf("%d calls: a reply that breaks off is read again, whole ones are not", len(f.asked()))
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		f := &fake{script: []http.HandlerFunc{answer(queued()), raw(200, "text/plain", "too long")}}
		c := start(t, f, client.MaxReply(7))
		if r, err := c.Reply(t.Context(), id); !errors.Is(err, client.ErrPending) {
			t.Errorf("pending: %+v, %v", r, err)
		}
		if r, err := c.Reply(t.Context(), id); !errors.Is(err, client.ErrTooLarge) || r.Body != nil {
			t.Errorf("too large: %+v, %v", r, err)
		}
	})
}
