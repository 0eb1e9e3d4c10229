package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/contracttest"
	"github.com/coatcheck/coatcheck/internal/demo"
	"github.com/coatcheck/coatcheck/internal/gateway"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// house is a gateway with its demo worker, as `coatcheck dev` has them.
type house struct {
	t     testing.TB
	url   string
	admin string // where operators look
	http  *http.Client
}

func start(t testing.TB, redis string, change ...func(*config.Config)) house {
	t.Helper()
	c := config.Default()
	c.DrainDelay = 0
	c.Callbacks.AllowCIDRs = []string{"127.0.0.0/8"}
	c.Callbacks.Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	for _, f := range change {
		f(&c)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	g, err := gateway.Start(t.Context(), gateway.Options{Config: c, RedisURL: redis, Listener: listener, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Errorf("gateway: %v", err)
		}
	})
	w := worker.New(redis, worker.Logger(quiet), worker.Name("demo"), worker.Grace(100*time.Millisecond))
	demo.Register(w)
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	t.Cleanup(func() { stop(); running.Wait() })
	h := house{t, "http://" + g.Addr().String(), "http://" + g.AdminAddr().String(), contracttest.Client(t)}
	deadline := time.Now().Add(10 * time.Second)
	for _, service := range demo.Services { // announced one by one
		for h.do("GET", "/v1/services/"+service, "", "Authorization", "Bearer key-a").code != 200 {
			if time.Now().After(deadline) {
				t.Fatalf("the demo service %s never came", service)
			}
		}
	}
	return h
}

// answer is an HTTP answer, read.
type answer struct {
	code   int
	header http.Header
	body   string
}

func (a answer) status(t *testing.T) (s api.Status) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatalf("%d %s: %v", a.code, a.body, err)
	}
	return s
}

func (h house) do(method, path, body string, headers ...string) answer {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, h.url+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	response, err := h.http.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(raw)}
}

func TestFromSubmitToReply(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		h := start(t, r.URL)
		a := h.do("POST", "/v1/services/progress/requests", `{"steps":3,"interval":"50ms"}`)
		s := a.status(t)
		if a.code != 202 || a.header.Get("Location") != s.Links.Self || a.header.Get("Retry-After") == "" || a.header.Get("X-Correlation-ID") != s.CorrelationID {
			t.Fatalf("%d %v", a.code, a.header)
		}
		events := h.do("GET", s.Links.Events, "").body // ends with the outcome
		waited := h.do("GET", s.Links.Self+"?wait=30s", "")
		if !strings.HasSuffix(events, "event: outcome\nid: 4\ndata: "+strings.TrimSpace(waited.body)+"\n\n") {
			t.Errorf("the outcome event differs from the status:\n%s\n%s", events, waited.body)
		}
		for n := 1; n <= 3; n++ {
			if !strings.Contains(events, fmt.Sprintf("event: progress\nid: %d\ndata: ", n)) {
				t.Errorf("event %d is missing", n)
			}
		}
		resumed := h.do("GET", s.Links.Events, "", "Last-Event-ID", "2").body
		if strings.Contains(resumed, "id: 2\n") || !strings.Contains(resumed, "id: 3\n") {
			t.Errorf("resumed after 2:\n%s", resumed)
		}
		if a := h.do("GET", s.Links.Events, "", "Last-Event-ID", "4"); a.code != 204 {
			t.Errorf("after the outcome: %d", a.code)
		}
		if a := h.do("GET", s.Links.Self, "", "If-None-Match", waited.header.Get("ETag")); a.code != 304 || a.body != "" {
			t.Errorf("unchanged: %d", a.code)
		}
		if a := h.do("GET", s.Links.Reply, ""); a.code != 200 || a.body != `{"steps":3}` || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("reply: %d %s", a.code, a.body)
		}
		if a := h.do("DELETE", s.Links.Self, ""); a.code != 204 {
			t.Errorf("delete: %d", a.code)
		}
		if a := h.do("GET", s.Links.Self, ""); a.code != 410 {
			t.Errorf("after delete: %d", a.code)
		}
	})
}

func TestReplyInTheSameCall(t *testing.T) {
	h := start(t, redistest.Mini(t))
	for _, body := range []string{"hi", "", "\x00\xff binary", strings.Repeat("x", 200<<10)} {
		a := h.do("POST", "/v1/services/echo/requests", body, "Prefer", "respond-async, wait=10", "Content-Type", "application/x-thing")
		if a.code != 200 || a.body != body || !strings.Contains(a.header.Get("Preference-Applied"), "wait=10") || a.header.Get("Content-Type") != "application/x-thing" {
			t.Errorf("%d bytes: %d, %d bytes back, %v", len(body), a.code, len(a.body), a.header)
		}
	}
	if a := h.do("POST", "/v1/services/flaky/requests", `{"fail_times":2}`, "Prefer", "wait=20"); a.body != `{"attempts":3}` {
		t.Errorf("flaky: %d %s", a.code, a.body)
	}
	if a := h.do("POST", "/v1/services/fail/requests", `{"message":"boom"}`, "Prefer", "wait=20"); a.code != 202 || a.status(t).Error.Message != "boom" {
		t.Errorf("fail: %d %s", a.code, a.body)
	}
	if a := h.do("POST", "/v1/services/sleep/requests", `{"for":"1m"}`, "Prefer", "wait=10", "Coatcheck-Run-Timeout", "300ms"); a.code != 202 || a.status(t).Reason != "run" {
		t.Errorf("run timeout: %d %s", a.code, a.body)
	}
	if a := h.do("POST", "/v1/services/sleep/requests", `{"for":"1m"}`, "Prefer", "wait=1"); a.code != 202 || a.status(t).Status != api.Running {
		t.Errorf("wait that ends: %d %s", a.code, a.body)
	}
}

func TestIdempotencyKeyOverHTTP(t *testing.T) {
	h := start(t, redistest.Mini(t))
	first := h.do("POST", "/v1/services/echo/requests", "x", "Idempotency-Key", `"k1"`).status(t)
	again := h.do("POST", "/v1/services/echo/requests", "x", "Idempotency-Key", "k1")
	if again.code != 202 || again.header.Get("Idempotency-Replayed") != "true" || again.status(t).CorrelationID != first.CorrelationID || again.status(t).CreatedAt != first.CreatedAt {
		t.Errorf("again: %d %v %s", again.code, again.header, again.body)
	}
	if a := h.do("POST", "/v1/services/echo/requests", "y", "Idempotency-Key", "k1"); a.code != 422 {
		t.Errorf("other payload: %d", a.code)
	}
}

func TestBadInput(t *testing.T) {
	h := start(t, redistest.Mini(t), func(c *config.Config) { c.MaxBody = 1000 })
	const submit = "/v1/services/echo/requests"
	forged := "/v1/requests/01a20ab5-4c56-8000-ae3b-b77f544ab6f3"
	tests := []struct {
		name, method, path, body string
		headers                  []string
		code                     int
		kind                     string
	}{
		{"unknown service", "POST", "/v1/services/nope/requests", "x", nil, 404, "unknown-service"},
		{"unknown option", "POST", submit, "x", []string{"Coatcheck-Timout", "3s"}, 400, "invalid-option"},
		{"negative timeout", "POST", submit, "x", []string{"Coatcheck-Timeout", "-3s"}, 400, "invalid-option"},
		{"huge timeout", "POST", submit, "x", []string{"Coatcheck-Timeout", "99999999999999999999"}, 400, "invalid-option"},
		{"timeout that is none", "POST", submit, "x", []string{"Coatcheck-Run-Timeout", "soon"}, 400, "invalid-option"},
		{"invalid UTF-8", "POST", submit, "x", []string{"X-Thing", "\xff\xfe"}, 400, "invalid-option"},
		{"two keys", "POST", submit, "x", []string{"Idempotency-Key", "a", "Idempotency-Key", "b"}, 400, "invalid-option"},
		{"callback that is no URL", "POST", submit, "x", []string{"Coatcheck-Callback-Url", "::"}, 400, "callback-refused"},
		{"callback inside", "POST", submit, "x", []string{"Coatcheck-Callback-Url", "http://10.1.2.3/x"}, 400, "callback-refused"},
		{"callback to metadata", "POST", submit, "x", []string{"Coatcheck-Callback-Url", "http://169.254.169.254/"}, 400, "callback-refused"},
		{"callback event", "POST", submit, "x", []string{"Coatcheck-Callback-Url", "http://127.0.0.1/x", "Coatcheck-Callback-Events", "all"}, 400, "invalid-option"},
		{"too large", "POST", submit, strings.Repeat("x", 1001), nil, 413, "body-too-large"},
		{"malformed ID", "GET", "/v1/requests/xyz", "", nil, 404, "not-found"},
		{"forged ID", "GET", forged, "", nil, 404, "not-found"},
		{"forged ID, cancel", "POST", forged + "/cancel", "", nil, 404, "not-found"},
		{"forged ID, events", "GET", forged + "/events", "", nil, 404, "not-found"},
		{"no such path", "GET", "/v2", "", nil, 404, "no-such-route"},
		{"wrong method", "PUT", "/v1/services", "", nil, 405, "method-not-allowed"},
		{"wrong ticket", "GET", forged + "/events?ticket=1.2.3", "", nil, 401, "unauthenticated"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := h.do(test.method, test.path, test.body, test.headers...)
			var p api.Problem
			if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.code != test.code || p.Type != "/problems/"+test.kind || p.Status != a.code {
				t.Errorf("%d %s, want %d %s", a.code, a.body, test.code, test.kind)
			}
			if page := h.do("GET", p.Type, ""); page.code != 200 {
				t.Errorf("the page at %s: %d", p.Type, page.code)
			}
		})
	}
	if a, b := h.do("GET", forged, ""), h.do("GET", "/v1/requests/xyz", ""); a.body != b.body {
		t.Errorf("a forged ID and a malformed one differ:\n%s%s", a.body, b.body)
	}
}

func TestChunkedAndLyingBodies(t *testing.T) {
	h := start(t, redistest.Mini(t), func(c *config.Config) { c.MaxBody = 1000 })
	for name, test := range map[string]struct {
		raw  string
		code string
	}{
		"chunked, too large": {"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + strings.Repeat("x", 1001) + "\r\n0\r\n\r\n", "413"},
		"chunked":            {"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "202"},
		"says too much":      {"Content-Length: 5000\r\n\r\nhi", "413"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(c, "POST /v1/services/echo/requests HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s", test.raw)
			head := make([]byte, len("HTTP/1.1 413"))
			if _, err := io.ReadFull(c, head); err != nil || string(head[9:]) != test.code {
				t.Errorf("%s, %v; want %s", head, err, test.code)
			}
		})
	}
}

func TestTenantsDoNotSeeEachOther(t *testing.T) {
	h := start(t, redistest.Mini(t), withKeys)
	a, b := []string{"Authorization", "Bearer key-a"}, []string{"Authorization", "Bearer key-b"}
	if got := h.do("POST", "/v1/services/echo/requests", "x"); got.code != 401 {
		t.Errorf("no key: %d", got.code)
	}
	s := h.do("POST", "/v1/services/echo/requests", "x", a...).status(t)
	if got := h.do("GET", s.Links.Self, "", a...); got.code != 200 {
		t.Errorf("own request: %d", got.code)
	}
	never := h.do("GET", "/v1/requests/xyz", "", b...)
	for _, path := range []string{s.Links.Self, s.Links.Reply, s.Links.Events} {
		if got := h.do("GET", path, "", b...); got.code != 404 || got.body != never.body {
			t.Errorf("%s of another tenant: %d %s", path, got.code, got.body)
		}
	}
	if got := h.do("POST", s.Links.Cancel, "", b...); got.code != 403 {
		t.Errorf("cancel without the scope: %d", got.code)
	}
	var ticket api.StreamTicket
	if err := json.Unmarshal([]byte(h.do("POST", s.Links.Self+"/stream-ticket", "", a...).body), &ticket); err != nil {
		t.Fatal(err)
	}
	if got := h.do("GET", s.Links.Events+"?ticket="+ticket.Ticket, ""); got.code != 200 || !bytes.Contains([]byte(got.body), []byte("event: outcome")) {
		t.Errorf("by ticket: %d %s", got.code, got.body)
	}
}
