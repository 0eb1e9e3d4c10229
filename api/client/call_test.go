package client_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSubmitIsSentAgainWithItsKey(t *testing.T) {
	half := `{"correlation_id":"` + id
	for name, trouble := range map[string]http.HandlerFunc{
		"cut before the answer": hangUp,
		"cut in the answer":     cut(http.StatusAccepted, "application/json", half),
		"cut in a problem":      cut(http.StatusServiceUnavailable, "application/problem+json", `{"type":"/pro`),
		"effect unknown":        problem("effect-unknown", 1),
		"internal":              problem("internal", 1),
		"proxy says 502":        plain(http.StatusBadGateway, "<h1>Bad Gateway</h1>"),
		"proxy says 504":        plain(http.StatusGatewayTimeout, ""),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{script: []http.HandlerFunc{trouble, trouble, answer(queued())}}
				c := start(t, f, client.APIKey("cck_x"))
				s, err := c.Submit(t.Context(), "echo", client.Request{ContentType: "text/plain", Body: []byte("hi"), Timeout: time.Minute})
				if err != nil || s.CorrelationID != id {
					t.Fatalf("%+v, %v", s, err)
				}
				calls := f.asked()
				if len(calls) != 3 || calls[0].header.Get(api.HeaderIdempotencyKey) == "" {
					t.Fatalf("%d calls: %+v", len(calls), calls)
				}
				for n, call := range calls {
					if call.body != "hi" || call.header.Get("Authorization") != "Bearer cck_x" || call.header.Get(api.HeaderTimeout) != "1m0s" ||
						call.header.Get(api.HeaderIdempotencyKey) != calls[0].header.Get(api.HeaderIdempotencyKey) {
						t.Errorf("call %d differs: %+v", n, call)
					}
				}
			})
		})
	}
}

func TestTwoSubmitsHaveTwoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{script: []http.HandlerFunc{answer(queued())}}
		c := start(t, f)
		for range 2 {
			if _, err := c.Submit(t.Context(), "echo", client.Request{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Submit(t.Context(), "a/b", client.Request{IdempotencyKey: "mine", Header: map[string]string{"Prefer": "wait=5", "X-A": "b"}}); err != nil {
			t.Fatal(err)
		}
		calls := f.asked()
		if calls[0].header.Get(api.HeaderIdempotencyKey) == calls[1].header.Get(api.HeaderIdempotencyKey) {
			t.Error("two submits had one key")
		}
		last := calls[2]
		if last.path != "/v1/services/a%2Fb/requests" || last.header.Get(api.HeaderIdempotencyKey) != "mine" || last.header.Get("Prefer") != "" || last.header.Get("X-A") != "b" {
			t.Errorf("sent %+v", last)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	date := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", time.Now().Add(9*time.Second).UTC().Format(http.TimeFormat))
		plain(http.StatusServiceUnavailable, "")(w, r)
	}
	for name, c := range map[string]struct {
		trouble     http.HandlerFunc
		least, most time.Duration
	}{
		"seconds":        {problem("unavailable", 7), 7 * time.Second, 7 * time.Second},
		"full queue":     {problem("queue-full", 3), 3 * time.Second, 3 * time.Second},
		"a proxy's date": {date, 8 * time.Second, 9 * time.Second},
		"none":           {plain(http.StatusServiceUnavailable, ""), 100 * time.Millisecond, 200 * time.Millisecond},
		"far too long":   {problem("draining", 1000), 30 * time.Second, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{script: []http.HandlerFunc{c.trouble, answer(queued())}}
				if _, err := start(t, f).Submit(t.Context(), "echo", client.Request{}); err != nil {
					t.Fatal(err)
				}
				if got := f.asked()[1].at; got < c.least || got > c.most {
					t.Errorf("came back after %v, want %v to %v", got, c.least, c.most)
				}
			})
		})
	}
}

func TestRefusalIsNotTriedAgain(t *testing.T) {
	for _, kind := range api.Problems {
		if kind.Retry {
			continue
		}
		t.Run(kind.Slug, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{script: []http.HandlerFunc{problem(kind.Slug, 0)}}
				c := start(t, f)
				for n, do := range map[string]func() error{
					"submit": func() error { _, err := c.Submit(t.Context(), "echo", client.Request{}); return err },
					"status": func() error { _, err := c.Status(t.Context(), id); return err },
					"wait":   func() error { _, err := c.Wait(t.Context(), id); return err },
					"reply":  func() error { _, err := c.Reply(t.Context(), id); return err },
					"cancel": func() error { _, err := c.Cancel(t.Context(), id); return err },
					"delete": func() error { return c.Delete(t.Context(), id) },
					"events": func() (err error) {
						for _, err = range c.Events(t.Context(), id) {
						}
						return err
					},
				} {
					before := len(f.asked())
					p, ok := errors.AsType[api.Problem](do())
					if tried := len(f.asked()) - before; !ok || p.Type != api.ProblemPath+kind.Slug || tried != 1 {
						t.Errorf("%s: %d tries, %+v", n, tried, p)
					}
				}
			})
		})
	}
}

func TestGivesUpAndSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		trouble http.HandlerFunc
		tries   int
		want    string
	}{
		"unavailable":     {problem("unavailable", 1), 6, "Redis cannot be asked now"},
		"no gateway":      {plain(http.StatusNotFound, "<h1>nginx</h1>"), 1, "404 Not Found, without a problem document"},
		"not a document":  {plain(http.StatusOK, "<h1>It works!</h1>"), 1, "is this the address of a gateway?"},
		"another one":     {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"a":1}`)) }, 1, "is this the address of a gateway?"},
		"without an end":  {func(w http.ResponseWriter, _ *http.Request) { endless(w) }, 1, "larger than this client takes"},
		"hangs up always": {hangUp, 6, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{script: []http.HandlerFunc{c.trouble}}
				s, err := start(t, f).Status(t.Context(), id)
				if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || s.CorrelationID != "" {
					t.Errorf("%+v, %v", s, err)
				}
				if n := len(f.asked()); n != c.tries {
					t.Errorf("%d tries, want %d", n, c.tries)
				}
			})
		})
	}
}

func endless(w http.ResponseWriter) {
	block := []byte(strings.Repeat(" ", 1<<20))
	for {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

func TestContextEndsTheTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{script: []http.HandlerFunc{problem("unavailable", 20)}}
		c := start(t, f)
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		began := time.Now()
		_, err := c.Submit(ctx, "echo", client.Request{})
		p, ok := errors.AsType[api.Problem](err)
		if !errors.Is(err, context.DeadlineExceeded) || !ok || p.Status != http.StatusServiceUnavailable || time.Since(began) != 5*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// What can't be sent is the caller's mistake: trying again, or another gateway,
// does not mend it.
func TestAHeaderThatCannotBeSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{script: []http.HandlerFunc{answer(queued())}}
		c, began := start(t, f), time.Now()
		for name, r := range map[string]client.Request{
			"Content-Type":               {ContentType: "text/plain\r\nX-A: b"},
			api.HeaderIdempotencyKey:     {IdempotencyKey: "a\x00b"},
			"X-A":                        {Header: map[string]string{"X-A": "b\n"}},
			"the name of header \"a b\"": {Header: map[string]string{"a b": "c"}},
		} {
			_, err := c.Submit(t.Context(), "echo", r)
			if !errors.Is(err, client.ErrHeader) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
		}
		_, err := start(t, f, client.APIKey("secret\n")).Status(t.Context(), id)
		if !errors.Is(err, client.ErrHeader) || strings.Contains(err.Error(), "secret") {
			t.Errorf("key: %v", err)
		}
		if len(f.asked()) > 0 || time.Since(began) > 0 {
			t.Errorf("%d calls in %s", len(f.asked()), time.Since(began))
		}
	})
}
