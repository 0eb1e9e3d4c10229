package upstream_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/steward"
	"github.com/coatcheck/coatcheck/internal/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// bench is a broker with a steward, and a service that a backend answers.
type bench struct {
	*broker.Broker
	t *testing.T
}

func start(t *testing.T, r *redistest.Redis, backend http.Handler, change ...func(*upstream.Options)) bench {
	t.Helper()
	server := httptest.NewServer(backend)
	t.Cleanup(server.Close)
	b, err := broker.Open(t.Context(), broker.Options{
		URL: r.URL, Logger: quiet, Services: map[string]broker.ServiceConfig{"shop": {Backoff: 10 * time.Millisecond, Timeout: time.Minute}},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := upstream.Options{RedisURL: r.URL, Service: "shop", URL: server.URL + "/api?fixed=1", Logger: quiet, MaxReply: 1 << 20}
	for _, c := range change {
		c(&o)
	}
	u, err := upstream.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running, calling sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	running.Go(func() { steward.New(b, quiet).Run(ctx) })
	working, end := context.WithCancel(context.Background())
	calling.Go(func() { u.Run(working) })
	t.Cleanup(func() {
		end()
		calling.Wait()
		stop()
		running.Wait()
		b.Close()
	})
	return bench{b, t}
}

func (b bench) submit(method, path, body string, change ...func(*broker.Submission)) broker.Record {
	b.t.Helper()
	s := broker.Submission{
		Tenant: broker.DefaultTenant, Service: "shop", ContentType: "text/plain", Body: []byte(body), Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Headers: map[string]string{":method": method, ":path": path, "x-own": "kept"},
	}
	for _, c := range change {
		c(&s)
	}
	r, _, err := b.Submit(b.t.Context(), s)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// outcome waits for the end of a request. It polls, since what moves are real
// processes and a real clock.
func (b bench) outcome(r broker.Record) broker.Record {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer stop()
	for {
		got, err := b.Reply(ctx, r.ID)
		if err != nil {
			b.t.Fatal(err)
		}
		if got.Status.Terminal() {
			return got
		}
		select {
		case <-ctx.Done():
			b.t.Fatalf("still %s, attempt %d: %+v", got.Status, got.Attempt, got.Attempts)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// The backend sees what the client sent, and the client what the backend answers.
func TestForwards(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b := start(t, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("Content-Type", "text/x")
			w.Header().Set("X-Answer", "yes")
			w.Header().Set("Connection", "X-Hop")
			w.Header().Set("X-Hop", "1")
			if strings.HasSuffix(r.URL.Path, "/teapot") {
				w.WriteHeader(http.StatusTeapot)
			} else if strings.HasSuffix(r.URL.Path, "/moved") {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(http.StatusFound)
			}
			fmt.Fprintf(w, "%s %s %s %s %s %s %s %s", r.Method, r.URL, r.Header.Get("Content-Type"), r.Header.Get("X-Own"),
				r.Header.Get("Coatcheck-Attempt"), r.Header.Get("X-Correlation-Id"), r.Header.Get("Traceparent"), body)
		}))
		for _, c := range []struct {
			method, path, body string
			url                string
			status             broker.Status
			code               int
		}{
			{"PUT", "orders/7%20a?x=1", "hi", "/api/orders/7%20a?fixed=1&x=1", broker.Succeeded, 200},
			{"POST", "", "\x00\xff", "/api?fixed=1", broker.Succeeded, 200},
			{"DELETE", "teapot", "", "/api/teapot?fixed=1", broker.Failed, 418},
			{"GET", "a/moved", "", "/api/a/moved?fixed=1", broker.Succeeded, 302},
		} {
			request := b.submit(c.method, c.path, c.body)
			got := b.outcome(request)
			contentType := "text/plain"
			if c.body == "" {
				contentType = ""
			}
			want := fmt.Sprintf("%s %s %s kept 1 %s 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 %s", c.method, c.url, contentType, request.ID, c.body)
			if got.Status != c.status || got.Reply == nil || got.Reply.StatusCode != c.code || string(got.Reply.Body) != want || got.Reply.ContentType != "text/x" {
				t.Errorf("%s %s: %s %+v %+v, want\n%s", c.method, c.path, got.Status, got.Error, got.Reply, want)
				continue
			}
			if h := got.Reply.Headers; h["x-answer"] != "yes" || h["x-hop"] != "" || h["content-length"] != "" {
				t.Errorf("headers %v", h)
			}
			if c.status == broker.Failed && got.Error.Code != "upstream_418" {
				t.Errorf("error %+v", got.Error)
			}
		}
	})
}

// What says "not now" is tried again, by the backend's own Retry-After.
func TestTriesAgain(t *testing.T) {
	r := redistest.Start(t)
	var calls atomic.Int64
	var at [3]time.Time
	b := start(t, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		at[n-1] = time.Now()
		switch n {
		case 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			c, _, _ := w.(http.Hijacker).Hijack()
			c.Close()
		default:
			io.WriteString(w, r.Header.Get("Coatcheck-Attempt"))
		}
	}))
	got := b.outcome(b.submit("POST", "x", "")) // a GET is sent again by net/http itself
	if got.Status != broker.Succeeded || string(got.Reply.Body) != "3" || len(got.Attempts) != 2 {
		t.Fatalf("%s %+v %+v", got.Status, got.Error, got.Attempts)
	}
	if pause := at[1].Sub(at[0]); pause < time.Second {
		t.Errorf("tried again after %v, the backend asked for 1s", pause)
	}
	if text := got.Attempts[0].Error.Message + got.Attempts[1].Error.Message; !strings.Contains(text, "429 Too Many Requests") || strings.Contains(text, "127.0.0.1:") && strings.Contains(text, "/api") {
		t.Errorf("attempts %+v", got.Attempts)
	}
}

// What comes piece by piece is passed on piece by piece, and is the reply too.
func TestStreams(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		next := make(chan struct{})
		b := start(t, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			kind := map[string]string{"sse": "text/event-stream", "lines": "application/x-ndjson", "chunks": "text/plain"}[r.URL.Path[len("/api/"):]]
			w.Header().Set("Content-Type", kind)
			for i := range 3 {
				end := "\n\n"
				if kind != "text/event-stream" {
					end = "\n"
				}
				fmt.Fprintf(w, "data: %d%s", i, end)
				w.(http.Flusher).Flush()
				select {
				case <-next:
				case <-r.Context().Done():
				}
			}
		}))
		for _, path := range []string{"sse", "lines", "chunks"} {
			request := b.submit("GET", path, "")
			var events []broker.Event
			for n := range 3 {
				for deadline := time.Now().Add(10 * time.Second); len(events) <= n; {
					var err error
					if _, events, _, err = b.Events(t.Context(), request.ID, 0); err != nil || time.Now().After(deadline) {
						t.Fatalf("%s: %d events, %v", path, len(events), err)
					}
				}
				next <- struct{}{}
			}
			got := b.outcome(request)
			var parts []string
			for _, e := range events {
				parts = append(parts, string(e.Body))
			}
			if strings.Join(parts, "") != string(got.Reply.Body) || len(parts) != 3 || events[0].Type != "partial" {
				t.Errorf("%s: parts %q, reply %q", path, parts, got.Reply.Body)
			}
		}
	})
}

// A backend that is asynchronous itself is polled until it is done.
func TestPolls(t *testing.T) {
	r := redistest.Start(t)
	var polls atomic.Int64
	b := start(t, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == "POST":
			w.Header().Set("Location", "/jobs/1")
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusAccepted)
		case r.URL.Path == "/jobs/1" && polls.Add(1) < 2:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusAccepted)
		case r.URL.Path == "/jobs/1":
			w.Header().Set("Location", "/results/1")
			w.WriteHeader(http.StatusSeeOther)
		default:
			io.WriteString(w, "done")
		}
	}))
	if got := b.outcome(b.submit("POST", "", "x")); got.Status != broker.Succeeded || string(got.Reply.Body) != "done" || polls.Load() != 2 {
		t.Errorf("%s %+v after %d polls", got.Status, got.Reply, polls.Load())
	}
}

// While a backend is down its requests stay queued: no attempt is lost to it.
func TestLeftAlone(t *testing.T) {
	r := redistest.Start(t)
	var calls atomic.Int64
	var down atomic.Bool
	tripped := make(chan struct{})
	down.Store(true)
	b := start(t, r, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) == 5 {
			close(tripped)
		}
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}), func(o *upstream.Options) { o.Concurrency = 1 })
	var requests []broker.Record
	for range 30 {
		requests = append(requests, b.submit("GET", "", "", func(s *broker.Submission) { s.MaxAttempts = 20 }))
	}
	<-tripped
	down.Store(false)
	attempts := 0
	for _, request := range requests {
		got := b.outcome(request)
		if got.Status != broker.Succeeded {
			t.Fatalf("%s %+v", got.Status, got.Error)
		}
		attempts += len(got.Attempts)
	}
	if attempts > 10 {
		t.Errorf("%d attempts were lost to a backend that was down", attempts)
	}
}

// A cancel reaches the backend: its call is broken off.
func TestCancel(t *testing.T) {
	r := redistest.Start(t)
	began, ended := make(chan struct{}), make(chan struct{})
	b := start(t, r, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	}))
	request := b.submit("GET", "", "")
	<-began
	if _, err := b.Cancel(t.Context(), request.ID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the backend was not told")
	}
}

func TestTooLarge(t *testing.T) {
	r := redistest.Start(t)
	b := start(t, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "told") {
			w.Header().Set("Content-Length", fmt.Sprint(2<<20))
		}
		w.Write(make([]byte, 2<<20))
	}))
	for _, path := range []string{"told", "untold"} {
		got := b.outcome(b.submit("GET", path, ""))
		if got.Status != broker.Failed || !cmp.Equal(got.Error.Code, "reply_too_large") {
			t.Errorf("%s: %s %+v", path, got.Status, got.Error)
		}
	}
}
