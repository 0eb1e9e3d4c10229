package httpapi_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// head begins a submit that a test writes by hand.
const head = "POST " + echoRequests + " HTTP/1.1\r\nHost: gateway\r\n"

func TestBodyLimits(t *testing.T) {
	small := func(o *httpapi.Options) { o.MaxBody, o.Inflight = 1000, 1 }
	inside(t, func(t *testing.T, f *front) {
		fits, over := strings.Repeat("x", 1000), strings.Repeat("x", 1001)
		f.submit(fits)
		if a := f.call(http.MethodPost, echoRequests, io.MultiReader(strings.NewReader(fits))); a.StatusCode != 202 {
			t.Errorf("chunked, just fits: %d %s", a.StatusCode, a.body)
		}
		if detail := f.post(echoRequests, over).problem(t, "body-too-large"); !strings.Contains(detail, "1000 bytes") {
			t.Errorf("detail: %s", detail)
		}
		f.call(http.MethodPost, echoRequests, io.MultiReader(strings.NewReader(over))).problem(t, "body-too-large")
		f.accepted(2)
	}, small)
}

func TestDefaultLimit(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		const limit = 10 << 20
		f.submit(strings.Repeat("x", limit))
		f.post(echoRequests, strings.Repeat("x", limit+1)).problem(t, "body-too-large")
		if got := f.claim(); len(got.Body) != limit {
			t.Errorf("the worker got %d bytes", len(got.Body))
		}
	})
}

// TestLyingBodies: what is said of a body and what comes differ.
func TestLyingBodies(t *testing.T) {
	small := func(o *httpapi.Options) { o.MaxBody = 1000 }
	inside(t, func(t *testing.T, f *front) {
		for name, c := range map[string]struct{ send, slug string }{
			"says too much, sends little":      {"Content-Length: 1001\r\n\r\nhi", "body-too-large"},
			"asks before it sends too much":    {"Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n", "body-too-large"},
			"a chunk that says too much":       {"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + strings.Repeat("x", 1001), "body-too-large"},
			"a chunk without a length":         {"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", "invalid-request"},
			"a chunk of 2^64 bytes":            {"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nhello\r\n0\r\n\r\n", "invalid-request"},
			"a chunk longer than its length":   {"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n", "invalid-request"},
			"a trailer that is no header line": {"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nno trailer\r\n\r\n", "invalid-request"},
		} {
			if got := f.raw(head + "Connection: close\r\n" + c.send); !got.is(c.slug) {
				t.Errorf("%s: after %v %s", name, got.after, got.text)
			}
		}
		for name, send := range map[string]string{ // these never get past net/http
			"two lengths":          "Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
			"a negative length":    "Content-Length: -2\r\n\r\nhi",
			"a length of 2^64":     "Content-Length: 18446744073709551616\r\n\r\nhi",
			"a folded header":      "Coatcheck-Timeout: 5s\r\n\tX: y\r\nContent-Length: 0\r\n\r\n",
			"a NUL in a header":    "Coatcheck-Timeout: 5\x00s\r\nContent-Length: 0\r\n\r\n",
			"a CR in a header":     "Coatcheck-Timeout: 5\rX: y\r\nContent-Length: 0\r\n\r\n",
			"an unknown coding":    "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
			"a space in a name":    "Coatcheck-Timeout : 5s\r\nContent-Length: 0\r\n\r\n",
			"a megabyte of header": "X-Long: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		} {
			if got := f.raw(head + "Connection: close\r\n" + send); !strings.HasPrefix(got.text, "HTTP/1.1 4") && !strings.HasPrefix(got.text, "HTTP/1.1 501 ") {
				t.Errorf("%s: after %v %s", name, got.after, got.text)
			}
		}
		f.accepted(0)
		// What goes beyond the length is not part of the body, and no call either.
		got := f.raw(head + "Content-Length: 2\r\n\r\nhi there, and more\r\n\r\n")
		if !strings.HasPrefix(got.text, "HTTP/1.1 202 ") || !strings.Contains(got.text, "HTTP/1.1 400 ") {
			t.Errorf("more than was said: %s", got.text)
		}
		f.accepted(1)
		if d := f.claim(); string(d.Body) != "hi" {
			t.Errorf("the worker got %q", d.Body)
		}
	}, small)
}

// TestSlowClients: neither headers nor bodies are waited for without end, also
// where nobody wants the body.
func TestSlowClients(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		const stalls = "Content-Length: 10\r\n\r\n"
		const half = 500 * time.Millisecond // net/http keeps a closed connection that long for the answer's sake
		for name, c := range map[string]struct {
			send, slug string
			after      time.Duration
		}{
			"a body that stops":                  {head + stalls + "12345", "body-timeout", 30 * time.Second},
			"a body that never begins":           {head + stalls, "body-timeout", 30 * time.Second},
			"a chunk that never begins":          {head + "Transfer-Encoding: chunked\r\n\r\n", "body-timeout", 30 * time.Second},
			"of an unknown service":              {"POST /v1/services/nobody/requests HTTP/1.1\r\nHost: gateway\r\n" + stalls, "unknown-service", 30 * time.Second},
			"of a call that takes no body":       {"POST /v1/requests/x/cancel HTTP/1.1\r\nHost: gateway\r\n" + stalls, "not-found", 30 * time.Second},
			"of a path that nobody serves":       {"POST /nowhere HTTP/1.1\r\nHost: gateway\r\n" + stalls, "no-such-route", 30 * time.Second},
			"of a method that the path does not": {"PUT /v1/services HTTP/1.1\r\nHost: gateway\r\n" + stalls, "method-not-allowed", 30 * time.Second},
		} {
			if got := f.raw(c.send); !got.is(c.slug) || got.after < c.after || got.after > c.after+half {
				t.Errorf("%s: after %v %s", name, got.after, got.text)
			}
		}
		if got := f.raw(head[:len(head)-10]); got.text != "" || got.after < 5*time.Second || got.after > 5*time.Second+half {
			t.Errorf("headers that stop: after %v %q", got.after, got.text)
		}
		f.accepted(0)
		f.submit("the gateway goes on")
	})
}

// TestBodyDeadlineEndsWithTheBody: a wait that is longer than a body may take
// is not cut short by the body's deadline.
func TestBodyDeadlineEndsWithTheBody(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		begun := time.Now()
		a := f.post(echoRequests, "hi", "Prefer: wait=50")
		if took := time.Since(begun); a.StatusCode != 202 || took != 50*time.Second {
			t.Errorf("%d after %v", a.StatusCode, took)
		}
	})
}

// TestMemoryIsBounded: what stalled bodies hold is refused to others, and comes
// back with their end.
func TestMemoryIsBounded(t *testing.T) {
	const each, fit = 1 << 20, 4
	tight := func(o *httpapi.Options) { o.MaxBody, o.Inflight = each, fit*each+each/2 }
	for name, length := range map[string]string{
		"announced": fmt.Sprintf("Content-Length: %d\r\n\r\n", each),
		"chunked":   fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", each),
	} {
		t.Run(name, func(t *testing.T) {
			inside(t, func(t *testing.T, f *front) {
				var full, slow atomic.Int32
				var all sync.WaitGroup
				for range 4 * fit {
					all.Go(func() {
						switch got := f.raw(head + "Connection: close\r\n" + length + strings.Repeat("x", each-1)); {
						case got.is("memory-full"):
							full.Add(1)
						case got.is("body-timeout"):
							slow.Add(1)
						default:
							t.Errorf("after %v %.500s", got.after, got.text)
						}
					})
				}
				time.Sleep(5 * time.Second)
				if held := 4*fit - full.Load(); held > fit {
					t.Errorf("%d bodies are in memory at once", held)
				}
				f.submit("small ones go on")
				all.Wait()
				if full.Load() == 0 || slow.Load() == 0 {
					t.Errorf("%d were refused, %d timed out", full.Load(), slow.Load())
				}
				f.submit(strings.Repeat("x", each)) // all of it came back
				f.accepted(2)
			}, tight)
		})
	}
}

// TestAnnouncedBodiesHoldNothing: memory is for what came, not for what was said.
func TestAnnouncedBodiesHoldNothing(t *testing.T) {
	tight := func(o *httpapi.Options) { o.MaxBody, o.Inflight = 1<<20, 4<<20 }
	inside(t, func(t *testing.T, f *front) {
		for range 30 {
			conn := f.dial()
			defer conn.Close()
			fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\nx", head, 1<<20)
		}
		settled()
		f.submit(strings.Repeat("x", 1<<20))
	}, tight)
}

// TestAcceptedStaysAccepted: where the reply can't be fetched after all, the
// answer is the 202, since a 503 would say that nothing ran.
func TestAcceptedStaysAccepted(t *testing.T) {
	tight := func(o *httpapi.Options) { o.MaxBody = 1 << 20; o.Inflight = 1 }
	inside(t, func(t *testing.T, f *front) {
		stalled := f.dial()
		fmt.Fprintf(stalled, "%sContent-Length: %d\r\n\r\n%s", head, 1<<20, strings.Repeat("x", 1<<20-1))
		settled()
		f.echoes(func(r *broker.WorkerReply) { r.Body = bytes.Repeat([]byte("x"), 200<<10) })
		a := f.post(echoRequests, "hi", "Prefer: wait=5")
		if a.StatusCode != 202 || a.status(t).Status != api.Succeeded || a.Header.Get("Location") == "" || a.Header.Get("Retry-After") != "" {
			t.Errorf("%d %v %s", a.StatusCode, a.Header, a.body)
		}
		f.get(a.Header.Get("Location")+"/reply").problem(t, "memory-full")
		stalled.Close()
		settled()
		if reply := f.get(a.Header.Get("Location") + "/reply"); reply.StatusCode != 200 || len(reply.body) != 200<<10 {
			t.Errorf("later: %d, %d bytes", reply.StatusCode, len(reply.body))
		}
	}, tight)
}

func TestQueueFull(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		if a := f.post("/v1/services/small/requests", "1"); a.StatusCode != 202 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		f.post("/v1/services/small/requests", "2").problem(t, "queue-full")
	})
}

// TestClientHangsUp: before its body is whole nothing is accepted; from then on
// nothing depends on the connection.
func TestClientHangsUp(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for _, send := range []string{"Content-Length: 10\r\n\r\n12345", "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"} {
			conn := f.dial()
			io.WriteString(conn, head+send)
			conn.Close()
			synctest.Wait()
		}
		if log := f.log.String(); strings.Count(log, "problem=invalid-request") != 2 {
			t.Errorf("not refused as short bodies:\n%s", tail(log, 500))
		}
		f.accepted(0)

		f.set(func() { f.slow = 500 * time.Millisecond }) // the client leaves while Redis is at it
		conn := f.dial()
		io.WriteString(conn, head+"Prefer: wait=60\r\nContent-Length: 2\r\n\r\nhi")
		time.Sleep(100 * time.Millisecond)
		conn.Close()
		time.Sleep(2 * time.Second)
		f.set(func() { f.slow = 0 })
		if d := f.claim(); string(d.Body) != "hi" {
			t.Errorf("the worker got %q", d.Body)
		}
		if waiting, _ := f.server.Open(); waiting != 0 {
			t.Errorf("%d calls wait for nobody", waiting)
		}
	})
}
