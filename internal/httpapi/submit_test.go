package httpapi_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

const echoRequests = "/v1/services/echo/requests"

func TestSubmitIsAccepted(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		a := f.post(echoRequests, "hi", "Content-Type: text/plain")
		d := a.status(t)
		self := "/v1/requests/" + d.CorrelationID
		want := api.Links{Self: self, Reply: self + "/reply", Events: self + "/events", Cancel: self + "/cancel"}
		if a.StatusCode != 202 || d.Status != api.Queued || d.Attempt != 1 || d.QueuePosition != 1 || d.Links != want {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		if a.Header.Get("Location") != self || a.Header.Get("X-Correlation-ID") != d.CorrelationID || a.Header.Get("Retry-After") == "" {
			t.Errorf("headers %v", a.Header)
		}
		if got := f.get(self); got.status(t).CorrelationID != d.CorrelationID {
			t.Errorf("read back: %s", got.body)
		}
	})
}

// TestBytesAreOpaque: what goes in comes out, whatever it is.
func TestBytesAreOpaque(t *testing.T) {
	bodies := map[string][]byte{
		"empty": {}, "binary": {0, 1, 2, 0xff, 0xfe, '\r', '\n', 0}, "not UTF-8": []byte("caf\xe9"),
		"json": []byte(` { "a" : 1 } `), "large": bytes.Repeat([]byte("0123456789abcdef"), 80<<10), // 1.25 MiB
	}
	inside(t, func(t *testing.T, f *front) {
		for name, body := range bodies {
			for _, chunked := range []bool{false, true} {
				var from io.Reader = bytes.NewReader(body)
				if chunked {
					from = io.MultiReader(from) // hides the length
				}
				a := f.call(http.MethodPost, echoRequests, from, "Content-Type: application/x-thing; v=1", "Content-Encoding: gzip")
				if a.StatusCode != 202 {
					t.Fatalf("%s: %d %s", name, a.StatusCode, a.body)
				}
				got := f.claim()
				if !bytes.Equal(got.Body, body) || got.ContentType != "application/x-thing; v=1" || got.Headers["content-encoding"] != "gzip" {
					t.Errorf("%s: the worker got %d bytes of %s, headers %v", name, len(got.Body), got.ContentType, got.Headers)
				}
				f.send(got, broker.WorkerReply{Type: "final", ContentType: "application/x-other", Body: got.Body})
				reply := f.get(a.Header.Get("Location") + "/reply")
				if reply.StatusCode != 200 || !bytes.Equal(reply.body, body) || reply.Header.Get("Content-Type") != "application/x-other" {
					t.Errorf("%s: the client got %d, %d bytes of %s", name, reply.StatusCode, len(reply.body), reply.Header.Get("Content-Type"))
				}
			}
		}
	})
}

func TestPreferWait(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		f.echoes(func(r *broker.WorkerReply) { time.Sleep(time.Second); r.StatusCode = 201 })
		begun := time.Now()
		a := f.post(echoRequests, "hi", "Content-Type: text/plain", "Prefer: respond-async, wait=5")
		if a.StatusCode != 200 || string(a.body) != "hi" || a.Header.Get("Preference-Applied") != "respond-async, wait=5" || a.Header.Get("X-Correlation-ID") == "" {
			t.Errorf("in time: %d %q %v", a.StatusCode, a.body, a.Header)
		}
		if took := time.Since(begun); took > 1100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		begun = time.Now()
		a = f.post(echoRequests, "hi", "Prefer: wait=5")
		if took := time.Since(begun); a.StatusCode != 202 || took != 5*time.Second || a.status(t).Status != api.Queued || a.Header.Get("Preference-Applied") != "wait=5" {
			t.Errorf("too late: %d after %v: %s", a.StatusCode, took, a.body)
		}
	})
}

// TestWaitingNeverLooksRefused: a 4xx or 5xx of a submit says that nothing will
// run, so whatever a worker or a cancel does, the answer is the 202.
func TestWaitingNeverLooksRefused(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for name, change := range map[string]func(*broker.WorkerReply){
			"a 404 of the worker": func(r *broker.WorkerReply) { r.StatusCode = 404 },
			"a 503 of the worker": func(r *broker.WorkerReply) { r.StatusCode = 503 },
			"a failure": func(r *broker.WorkerReply) {
				r.Type, r.Body, r.Error = "failed", nil, &broker.Error{Code: "boom", Message: "It broke."}
			},
		} {
			f.echoes(change)
			a := f.post(echoRequests, "hi", "Prefer: wait=5")
			if d := a.status(t); a.StatusCode != 202 || d.FinishedAt.IsZero() || a.Header.Get("Retry-After") != "" {
				t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
			}
		}
	})
}

func TestIdempotencyKey(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		first := f.post(echoRequests, "pay", "Idempotency-Key: k1")
		for _, form := range []string{"Idempotency-Key: k1", `Idempotency-Key: "k1"`} {
			again := f.post(echoRequests, "pay", form)
			a, b := first.status(t), again.status(t)
			if again.StatusCode != 202 || again.Header.Get("Idempotency-Replayed") != "true" || a.CorrelationID != b.CorrelationID || a.CreatedAt != b.CreatedAt {
				t.Errorf("%s: %d %v %s", form, again.StatusCode, again.Header, again.body)
			}
		}
		if first.Header.Get("Idempotency-Replayed") != "" {
			t.Error("the first one is said to be a replay")
		}
		if detail := f.post(echoRequests, "pay more", "Idempotency-Key: k1").problem(t, "idempotency-mismatch"); !strings.Contains(detail, "nothing will run") {
			t.Errorf("it does not say that nothing was accepted: %s", detail)
		}
		f.echo()
		done := f.post(echoRequests, "pay", "Idempotency-Key: k1", "Prefer: wait=1")
		if done.StatusCode != 200 || string(done.body) != "pay" || done.Header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("once done: %d %s", done.StatusCode, done.body)
		}
	})
}

func TestOptionsReachTheRequest(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x", "Coatcheck-Timeout: 90", "Coatcheck-Start-Timeout: 2s", "Coatcheck-Run-Timeout: 1m", "Coatcheck-Retention: 1h",
			"Coatcheck-Callback-Url: https://example.com/hook", "Coatcheck-Callback-Events: failed, progress",
			"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "X-Trace: a", "X-Trace: b",
			"X-Forwarded-For: 10.0.0.1", "Cookie: secret=1", "Authorization: Bearer x")
		if got := time.Time(d.DeadlineAt).Sub(time.Time(d.CreatedAt)); got != 90*time.Second {
			t.Errorf("deadline after %v", got)
		}
		work := f.claim()
		delete(work.Headers, "user-agent")
		if diff := cmp.Diff(map[string]string{"x-trace": "a, b"}, work.Headers); diff != "" {
			t.Errorf("forwarded: %s", diff)
		}
		if work.Traceparent != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" {
			t.Errorf("traceparent %q", work.Traceparent)
		}
		f.send(work, broker.WorkerReply{Type: "final"})
		done := f.get(d.Links.Self).status(t)
		if got := time.Time(done.ExpiresAt).Sub(time.Time(done.FinishedAt)); got != time.Hour {
			t.Errorf("kept for %v", got)
		}
		late := f.submit("y", "Coatcheck-Start-Timeout: 2s")
		time.Sleep(3 * time.Second)
		if got := f.get(late.Links.Self).status(t); got.Status != api.TimedOut || got.Reason != "start" {
			t.Errorf("%s %s", got.Status, got.Reason)
		}
	}, func(o *httpapi.Options) { o.CheckCallback = func(string) error { return nil } })
}

// TestBadInput: a clear answer, and nothing accepted.
func TestBadInput(t *testing.T) {
	refuse := func(o *httpapi.Options) {
		o.CheckCallback = func(url string) error {
			if strings.Contains(url, "10.0.0.1") {
				return errors.New("it points inside")
			}
			return nil
		}
	}
	inside(t, func(t *testing.T, f *front) {
		for _, c := range []struct{ header, slug, says string }{
			{"Coatcheck-Timeout: -1s", "invalid-option", "100ms to 24h"},
			{"Coatcheck-Timeout: -1", "invalid-option", "Coatcheck-Timeout"},
			{"Coatcheck-Timeout: 99999999999999999999", "invalid-option", "24h"},
			{"Coatcheck-Timeout: 9223372036854775807", "invalid-option", "24h"},
			{"Coatcheck-Timeout: 1000000h", "invalid-option", "24h"},
			{"Coatcheck-Timeout: 1ms", "invalid-option", "100ms"},
			{"Coatcheck-Timeout: soon", "invalid-option", `"soon"`},
			{"Coatcheck-Timeout: ", "invalid-option", `""`},
			{"Coatcheck-Timeout: 0", "invalid-option", "100ms"},
			{"Coatcheck-Start-Timeout: 1e3", "invalid-option", "Coatcheck-Start-Timeout"},
			{"Coatcheck-Run-Timeout: NaN", "invalid-option", "Coatcheck-Run-Timeout"},
			{"Coatcheck-Retention: 169h", "invalid-option", "168h"},
			{"Coatcheck-Retention: 1ms", "invalid-option", "1s"},
			{"Coatcheck-Timeuot: 5s", "invalid-option", "Coatcheck-Timeuot"},
			{"Coatcheck-Timeout: \xff\xfe", "invalid-option", "UTF-8"},
			{"Content-Type: text/pl\xe9in", "invalid-option", "Content-Type"},
			{"X-Name: caf\xe9", "invalid-option", "X-Name"},
			{"X-Long: " + strings.Repeat("x", 9000), "invalid-option", "8192"},
			{"Idempotency-Key: " + strings.Repeat("k", 256), "invalid-option", "255"},
			{"Idempotency-Key: a b", "invalid-option", "visible ASCII"},
			{"Idempotency-Key: ", "invalid-option", "visible ASCII"},
			{`Idempotency-Key: ""`, "invalid-option", "visible ASCII"},
			{"Coatcheck-Callback-Url: http://10.0.0.1/", "callback-refused", "it points inside"},
			{"Coatcheck-Callback-Events: failed", "invalid-option", "Coatcheck-Callback-Url"},
		} {
			detail := f.post(echoRequests, "x", c.header).problem(t, c.slug)
			if !strings.Contains(detail, c.says) {
				t.Errorf("%.60q: the detail does not say %q: %s", c.header, c.says, detail)
			}
		}
		f.post(echoRequests, "x", "Coatcheck-Timeout: 5s", "Coatcheck-Timeout: 6s").problem(t, "invalid-option")
		f.post(echoRequests, "x", "Idempotency-Key: a", "Idempotency-Key: b").problem(t, "invalid-option")
		f.post(echoRequests, "x", "Coatcheck-Callback-Url: http://example.com/", "Coatcheck-Callback-Events: done").problem(t, "invalid-option")
		if detail := f.post("/v1/services/nobody/requests", "x").problem(t, "unknown-service"); !strings.Contains(detail, `"nobody"`) {
			t.Errorf("detail: %s", detail)
		}
		f.post("/v1/services/%00%ff%0d%0a/requests", "x").problem(t, "unknown-service")
		// What is wrong in a standard header that only carries a wish is dropped.
		d := f.submit("x", "traceparent: nonsense", "Prefer: wait=soon")
		f.accepted(1)
		if got := f.claim(); got.Traceparent != "" || got.ID != d.CorrelationID {
			t.Errorf("traceparent %q", got.Traceparent)
		}
	}, refuse)
}
