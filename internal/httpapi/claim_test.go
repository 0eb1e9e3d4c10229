package httpapi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/httpapi"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const echoClaims = "/v1/services/echo/claims"

// claims wants work, and returns it.
func (a answer) claims(t *testing.T) []api.Claim {
	t.Helper()
	var list api.ClaimList
	if err := json.Unmarshal(a.body, &list); err != nil || a.StatusCode != 200 || a.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("no claims: %d %v %s", a.StatusCode, a.Header, a.body)
	}
	return list.Claims
}

// empty wants that nothing came.
func (a answer) empty(t *testing.T) {
	t.Helper()
	if a.StatusCode != 204 || len(a.body) != 0 {
		t.Errorf("want nothing, got %d %s", a.StatusCode, a.body)
	}
}

// one claims a single request.
func (f *front) one(headers ...string) api.Claim {
	f.t.Helper()
	got := f.post(echoClaims, "", headers...).claims(f.t)
	if len(got) != 1 {
		f.t.Fatalf("%d claims", len(got))
	}
	return got[0]
}

// TestWorkOverHTTP: a request from its claim to its reply, with HTTP alone.
func TestWorkOverHTTP(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		d := f.submit(`{"a":1}`, "Content-Type: application/json", "X-Who: me", "User-Agent: test", "Traceparent: "+trace)
		a := f.post(echoClaims, "")
		got := a.claims(t)
		if len(got) != 1 || a.Header.Get("X-Correlation-ID") != d.CorrelationID || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Fatalf("%v %s", a.Header, a.body)
		}
		c := got[0]
		want := api.Claim{
			Token: c.Token, CorrelationID: d.CorrelationID, Service: "echo", Attempt: 1, DeadlineAt: d.DeadlineAt, LeaseSeconds: 30,
			Traceparent: trace, Headers: map[string]string{"x-who": "me", "user-agent": "test"}, ContentType: "application/json", Size: 7,
			Encoding: "json", Body: api.Raw(`{"a":1}`), Links: api.ClaimLinks{Replies: "/v1/claims/" + c.Token + "/replies"},
		}
		delete(c.Headers, "accept-encoding")
		if diff := cmp.Diff(want, c, cmp.Comparer(func(a, b api.Time) bool { return a.String() == b.String() })); diff != "" {
			t.Error(diff)
		}
		if s := f.get(d.Links.Self).status(t); s.Status != "running" || !strings.HasPrefix(s.Worker, "http:") {
			t.Errorf("%s by %s", s.Status, s.Worker)
		}
		for _, reply := range []struct{ query, body, kind string }{
			{"?type=heartbeat", "", ""},
			{"?type=progress&seq=1", `{"percent":50}`, "application/json"},
			{"?type=progress&seq=1", `{"percent":50}`, "application/json"}, // a repeat
			{"?type=partial&seq=2", "some", "text/plain"},
			{"?seq=3&status_code=201", "\x00\xff", "application/x-thing"},
		} {
			a := f.post(c.Links.Replies+reply.query, reply.body, "Content-Type: "+reply.kind)
			if a.StatusCode != 202 || len(a.body) != 0 || a.Header.Get("X-Correlation-ID") != d.CorrelationID {
				t.Errorf("%s: %d %s", reply.query, a.StatusCode, a.body)
			}
			settled()
		}
		a = f.get(d.Links.Reply)
		if a.StatusCode != 201 || string(a.body) != "\x00\xff" || a.Header.Get("Content-Type") != "application/x-thing" {
			t.Errorf("the reply: %d %q", a.StatusCode, a.body)
		}
		stream := string(f.get(d.Links.Events).body)
		for _, want := range []string{"event: progress\nid: 1\n", "event: partial\nid: 2\n", "event: outcome\nid: 3\n"} {
			if !strings.Contains(stream, want) {
				t.Errorf("the stream has no %q:\n%s", want, stream)
			}
		}
	})
}

// TestClaimBodies: opaque bytes fit into JSON, and come raw who asks for that.
func TestClaimBodies(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for _, c := range []struct{ body, kind, encoding, inJSON string }{
			{"", "", "text", `""`},
			{"hi <b>", "text/plain", "text", `"hi <b>"`},
			{` {"a":1}`, "application/problem+json", "json", `{"a":1}`},
			{`{"a":`, "application/json", "text", `"{\"a\":"`},
			{"\x00\xff", "image/png", "base64", `"AP8="`},
		} {
			f.submit(c.body, "Content-Type: "+c.kind)
			got := f.one()
			if string(got.Encoding) != c.encoding || string(got.Body) != c.inJSON || got.Size != len(c.body) || got.ContentType != c.kind {
				t.Errorf("%q: %+v", c.body, got)
			}
			f.submit(c.body, "Content-Type: "+c.kind, "X-Who: me")
			a := f.post(echoClaims, "", "Accept: application/octet-stream")
			h := a.Header
			if a.StatusCode != 200 || string(a.body) != c.body || h.Get("Content-Type") != "application/octet-stream" || h.Get("Coatcheck-Content-Type") != c.kind ||
				h.Get("Coatcheck-Service") != "echo" || h.Get("Coatcheck-Attempt") != "1" || h.Get("Coatcheck-Lease") != "30" || h.Get("Coatcheck-Header-X-Who") != "me" ||
				h.Get("X-Correlation-ID") == "" || !strings.HasPrefix(h.Get("Coatcheck-Claim"), h.Get("X-Correlation-ID")+".") || h.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%q: %d %q %v", c.body, a.StatusCode, a.body, h)
			}
			if at, err := time.Parse(time.RFC3339, h.Get("Coatcheck-Deadline")); err != nil || time.Until(at) < 4*time.Minute {
				t.Errorf("deadline %v, %v", at, err)
			}
		}
		for accept, raw := range map[string]bool{
			"": false, "*/*": false, "application/json": false, "application/*": false, "application/octet-stream": true,
			"application/octet-stream, */*;q=0.1": true, "application/json, application/octet-stream;q=0.5": false, "text/html": false,
		} {
			f.submit("x")
			a := f.post(echoClaims, "", "Accept: "+accept)
			if got := a.Header.Get("Content-Type") == "application/octet-stream"; a.StatusCode != 200 || got != raw {
				t.Errorf("Accept: %s: %d %s", accept, a.StatusCode, a.Header.Get("Content-Type"))
			}
		}
	})
}

// TestStrangersWordsInHeaders: what somebody put into Redis past a gateway.
func TestStrangersWordsInHeaders(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		d2 := f.claim()
		entry, err := f.mini.XAdd("cc:{0}:queue:echo", "*", []string{
			"id", d.CorrelationID, "token", d2.Token, "reply_to", d2.ReplyTo, "service", "echo", "attempt", "1", "deadline", "1", "lease", "1",
			"content_type", "a/b\r\nX-Evil: yes", "traceparent", "\xff", "headers", `{"x-a":"b\r\nX-Evil: yes","x b\r\nx-evil":"yes",":path":"/p","x-fine":"ü"}`, "body", "x",
		})
		if err != nil {
			t.Fatal(err)
		}
		record, err := f.mini.Get("cc:{0}:request:" + d.CorrelationID)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.mini.Set("cc:{0}:request:"+d.CorrelationID, strings.Replace(record, redistest.Record(record)["entry"], entry, 1))
		a := f.post(echoClaims, "", "Accept: application/octet-stream")
		if a.StatusCode != 200 || a.Header.Get("X-Evil") != "" || a.Header.Get("Coatcheck-Content-Type") != "" || a.Header.Get("Traceparent") != "" ||
			a.Header.Get("Coatcheck-Header-X-A") != "" || a.Header.Get("Coatcheck-Header-Path") != "/p" || a.Header.Get("Coatcheck-Header-X-Fine") != "ü" {
			t.Errorf("%d %v", a.StatusCode, a.Header)
		}
	})
}

func TestClaimWaits(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for _, c := range []struct {
			path, body string
			headers    []string
			took       time.Duration
			applied    string
		}{
			{"", "", nil, 0, ""},
			{"?wait=3s", "", nil, 3 * time.Second, ""},
			{"?wait=3", "", []string{"Prefer: wait=9"}, 3 * time.Second, ""},
			{"", "", []string{"Prefer: respond-async, wait=4"}, 4 * time.Second, "wait=4"},
			{"", `{"wait":"5s"}`, []string{"Prefer: wait=9"}, 5 * time.Second, ""},
			{"?wait=2s", `{"wait":"5s","max":3}`, nil, 2 * time.Second, ""},
			{"?wait=1h", "", nil, time.Minute, ""},
			{"", `{"wait":"1h"}`, nil, time.Minute, ""},
		} {
			begun := time.Now()
			a := f.post(echoClaims+c.path, c.body, c.headers...)
			a.empty(t)
			if took := time.Since(begun); took != c.took || a.Header.Get("Preference-Applied") != c.applied {
				t.Errorf("%s %s %v: after %v, applied %q", c.path, c.body, c.headers, took, a.Header.Get("Preference-Applied"))
			}
		}
		begun := time.Now()
		submitted := make(chan struct{})
		go func() {
			defer close(submitted)
			time.Sleep(7 * time.Second)
			f.submit("late")
		}()
		got := f.post(echoClaims+"?wait=60", "", "Prefer: wait=1").claims(t)
		if took := time.Since(begun); len(got) != 1 || string(got[0].Body) != `"late"` || took > 7100*time.Millisecond {
			t.Errorf("%v after %v", got, took)
		}
		<-submitted
	})
}

func TestClaimMany(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for i := range 9 {
			f.submit(fmt.Sprint(i))
		}
		for _, c := range []struct {
			path, body string
			want       int
		}{{"", "", 1}, {"", `{"max":2}`, 2}, {"?max=3", "", 3}, {"?max=2", `{"max":100}`, 2}, {"?max=100", " \n", 1}} {
			a := f.post(echoClaims+c.path, c.body, "Content-Type: application/x-www-form-urlencoded") // as curl -d sends it
			if got := a.claims(t); len(got) != c.want || (a.Header.Get("X-Correlation-ID") != "") != (c.want == 1) {
				t.Errorf("%s %s: %d", c.path, c.body, len(got))
			}
		}
		f.post(echoClaims, "").empty(t)
	})
}

func TestClaimsThatCannotBe(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		f.submit("x")
		for _, c := range []struct{ path, body, header, slug string }{
			{"?max=0", "", "", "invalid-option"},
			{"?max=101", "", "", "invalid-option"},
			{"?max=-1", "", "", "invalid-option"},
			{"?max=many", "", "", "invalid-option"},
			{"?max=1e1", "", "", "invalid-option"},
			{"?max=%zz", "", "", "invalid-option"},
			{"?wait=soon", "", "", "invalid-option"},
			{"?wait=-1s", "", "", "invalid-option"},
			{"", `{"max":0}`, "", "invalid-option"},
			{"", `{"max":101}`, "", "invalid-option"},
			{"", `{"wait":"soon"}`, "", "invalid-option"},
			{"", `{"wait":10}`, "", "invalid-request"},
			{"", `{"max":"1"}`, "", "invalid-request"},
			{"", `{"maximum":1}`, "", "invalid-request"},
			{"", `{"max":1}{"max":2}`, "", "invalid-request"},
			{"", `[1]`, "", "invalid-request"},
			{"", `max=1`, "", "invalid-request"},
			{"", strings.Repeat(" ", 5000), "", "body-too-large"},
			{"", strings.Repeat(" ", 11<<20), "", "body-too-large"},
			{"?max=2", "", "Accept: application/octet-stream", "invalid-option"},
		} {
			headers := []string{}
			if c.header != "" {
				headers = append(headers, c.header)
			}
			if detail := f.post(echoClaims+c.path, c.body, headers...).problem(t, c.slug); !strings.Contains(detail, "othing was ") && !strings.Contains(detail, "not affected") {
				t.Errorf("%s %.40s: %s", c.path, c.body, detail)
			}
		}
		f.accepted(1)
	})
}

// TestClaimAnnounces: whoever claims first makes the service be.
func TestClaimAnnounces(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		f.post("/v1/services/fresh/requests", "x").problem(t, "unknown-service")
		f.get("/v1/services/fresh").problem(t, "unknown-service")
		f.post("/v1/services/fresh/claims", "").empty(t)
		if a := f.post("/v1/services/fresh/requests", "x"); a.StatusCode != 202 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		if got := f.post("/v1/services/fresh/claims?wait=5", "").claims(t); len(got) != 1 || got[0].Service != "fresh" {
			t.Errorf("%+v", got)
		}
		for _, name := range []string{"FRESH", "a%20b", "a%7B1%7D", strings.Repeat("x", 65)} {
			f.post("/v1/services/"+name+"/claims", "").problem(t, "unknown-service")
		}
		if got := f.broker.Services(); !cmp.Equal(got, []string{"echo", "fresh", "small"}) {
			t.Errorf("%v", got)
		}
	})
}

// TestWorkerThatHangsUp before anything was written: the work is as if nobody had
// asked for it.
func TestWorkerThatHangsUp(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		conn := f.dial()
		go io.WriteString(conn, "POST "+echoClaims+"?wait=30 HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n")
		time.Sleep(500 * time.Millisecond)
		if f.pull.Waiting() != 1 {
			t.Fatalf("%d wait", f.pull.Waiting())
		}
		conn.Close()
		settled()
		if f.pull.Waiting() != 0 {
			t.Errorf("%d wait for somebody who left", f.pull.Waiting())
		}
		d := f.submit("x")
		time.Sleep(2 * time.Second)
		if s := f.get(d.Links.Self).status(t); s.Status != "queued" || s.Attempt != 1 {
			t.Errorf("%s, attempt %d", s.Status, s.Attempt)
		}
		if got := f.one(); got.Attempt != 1 {
			t.Errorf("attempt %d", got.Attempt)
		}
	})
}

// TestWorkerThatHangsUpHalfway may have begun: another attempt follows at once.
func TestWorkerThatHangsUpHalfway(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit(strings.Repeat("x", 1<<20))
		conn := f.dial()
		go io.WriteString(conn, "POST "+echoClaims+" HTTP/1.1\r\nHost: gateway\r\nAccept: application/octet-stream\r\nContent-Length: 0\r\n\r\n")
		if _, err := io.ReadFull(conn, make([]byte, 2000)); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		time.Sleep(100 * time.Millisecond)
		if s := f.get(d.Links.Self).status(t); s.Status != "queued" || s.Attempt != 2 {
			t.Errorf("%s, attempt %d", s.Status, s.Attempt)
		}
		if got := f.one(); got.Attempt != 2 || got.Size != 1<<20 {
			t.Errorf("attempt %d", got.Attempt)
		}
	})
}

// TestClaimsAndMemory: what can't be held is not kept from others.
func TestClaimsAndMemory(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit(strings.Repeat("x", 900<<10))
		conn := f.dial() // holds almost all that there is
		defer conn.Close()
		go io.WriteString(conn, "POST "+echoRequests+" HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("y", 999_000))
		time.Sleep(100 * time.Millisecond)
		f.post(echoClaims, "").problem(t, "memory-full")
		if s := f.get(d.Links.Self).status(t); s.Status != "queued" || s.Attempt != 1 {
			t.Errorf("%s, attempt %d", s.Status, s.Attempt)
		}
	}, func(o *httpapi.Options) { o.MaxBody, o.Inflight = 1<<20, 1<<20 })
}

// TestDrainEndsClaims: who waits is let go with nothing, and no more is handed out.
// Replies are still taken.
func TestDrainEndsClaims(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		f.submit("x")
		held := f.one()
		waiting := make(chan answer)
		go func() { waiting <- f.post(echoClaims+"?wait=60", "") }()
		time.Sleep(100 * time.Millisecond)
		begun := time.Now()
		f.server.Drain()
		f.pull.Drain()
		a := <-waiting
		a.empty(t)
		if took := time.Since(begun); took > 1100*time.Millisecond {
			t.Errorf("let go after %v", took)
		}
		if detail := f.post(echoClaims+"?wait=60", "").problem(t, "draining"); !strings.Contains(detail, "Nothing was claimed") {
			t.Error(detail)
		}
		if a := f.post(held.Links.Replies, "done"); a.StatusCode != 202 {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	})
}

func TestClaimWhileRedisIsAway(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		f.submit("x")
		held := f.one()
		f.redis(false)
		f.post(echoClaims+"?wait=60", "").problem(t, "unavailable")
		f.post("/v1/services/fresh/claims", "").problem(t, "unavailable")
		f.post(held.Links.Replies, "x").problem(t, "unavailable")
		f.redis(true)
		if a := f.post(held.Links.Replies, "x"); a.StatusCode != 202 {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	})
}

// TestClaimIsNotForPages: a page of another origin can't make a browser claim.
func TestClaimIsNotForPages(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		f.submit("x")
		f.post(echoClaims, "", "Sec-Fetch-Site: cross-site").problem(t, "forbidden")
		f.accepted(1)
	})
}

// TestCanceledWhileItIsHeld: between the read and the handover.
func TestCanceledWhileItIsHeld(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		held, err := f.pull.Claim(t.Context(), "echo", 1, 0)
		if err != nil || len(held) != 1 {
			t.Fatalf("%v, %v", held, err)
		}
		if s := f.get(d.Links.Self).status(t); s.Status != "queued" || s.Worker != "" {
			t.Errorf("%s by %q: nobody has it yet", s.Status, s.Worker)
		}
		f.post(d.Links.Cancel, "")
		if got, err := f.broker.Entrust(t.Context(), held); err != nil || len(got) != 0 {
			t.Errorf("%v, %v", got, err)
		}
	})
}
