package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

func (f *front) fails(code string, lines ...string) api.Status {
	d := f.submit("x", lines...)
	f.send(f.claim(), broker.WorkerReply{Type: "failed", Error: &broker.Error{Code: code, Message: "It broke."}})
	time.Sleep(time.Second) // a steward settles it
	return d
}

func TestRetry(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		old := f.fails("boom")
		f.post(f.submit("y").Links.Self+"/retry", "").problem(t, "not-dead")
		f.post(f.get(old.Links.Self).status(t).Links.Cancel, "").problem(t, "already-terminal")
		for _, option := range []string{"Coatcheck-Delay: 10m", "Coatcheck-Foo: 1"} {
			f.post(old.Links.Self+"/retry", "", option).problem(t, "invalid-option")
		}
		before := f.get(old.Links.Self)
		a := f.post(old.Links.Self+"/retry", "")
		made := a.status(t)
		if a.StatusCode != 202 || made.RetryOf != old.CorrelationID || a.Header.Get("Location") != made.Links.Self || a.Header.Get("Idempotency-Replayed") != "" {
			t.Errorf("%d %v %s", a.StatusCode, a.Header, a.body)
		}
		again := f.post(old.Links.Self+"/retry", "", "Prefer: return=minimal, respond-async")
		if applied := again.Header.Get("Preference-Applied"); applied != "respond-async" {
			t.Errorf("applied is %q, of a request that keeps its reply", applied)
		}
		if again.StatusCode != 202 || again.status(t).CorrelationID != made.CorrelationID || again.Header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("again: %d %v %s", again.StatusCode, again.Header, again.body)
		}
		after := f.get(old.Links.Self, "If-None-Match: "+before.Header.Get("ETag"))
		if after.StatusCode != 200 || after.status(t).RetriedAs != made.CorrelationID || after.status(t).Status != "failed" {
			t.Errorf("the old one: %d %s", after.StatusCode, after.body)
		}
		began := time.Now()
		waited := f.get(old.Links.Self+"?wait=10s", "If-None-Match: "+before.Header.Get("ETag"))
		if waited.StatusCode != 200 || waited.status(t).RetriedAs != made.CorrelationID || time.Since(began) > time.Second {
			t.Errorf("a long-poll of the old one: %d %s after %v", waited.StatusCode, waited.body, time.Since(began))
		}
		if a := f.get(old.Links.Self, "If-None-Match: "+after.Header.Get("ETag")); a.StatusCode != 304 {
			t.Errorf("known: %d", a.StatusCode)
		}
		if a := f.get(made.Links.Self).status(t); a.RetryOf != old.CorrelationID || a.RetriedAs != "" {
			t.Errorf("the new one: %+v", a)
		}
		f.call(http.MethodDelete, old.Links.Self, nil)
		f.post(old.Links.Self+"/retry", "").problem(t, "gone")
	})
}

// TestRetryHasAllOptions: what a client said by headers holds for the new request.
func TestRetryHasAllOptions(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		old := f.fails("boom", "Coatcheck-Timeout: 7m", "Coatcheck-Priority: low", "Coatcheck-Tag: a,b", "Coatcheck-Max-Attempts: 9",
			"Content-Type: text/x-own", "X-Mine: yes", "Idempotency-Key: k")
		made := f.post(old.Links.Self+"/retry", "").status(t)
		if took := time.Time(made.DeadlineAt).Sub(time.Time(made.CreatedAt)); took != 7*time.Minute || made.Priority != "low" || len(made.Tags) != 2 || made.MaxAttempts != 9 {
			t.Errorf("made %+v", made)
		}
		d := f.claim()
		if d.ID != made.CorrelationID || string(d.Body) != "x" || d.ContentType != "text/x-own" || d.Headers["x-mine"] != "yes" {
			t.Errorf("the worker got %+v", d)
		}
		if l := f.list("?status=any&tag=a"); len(l.Requests) != 2 {
			t.Errorf("listed by its tag: %v", ids(l))
		}
		f.send(d, broker.WorkerReply{Type: "final", Body: []byte("done")})
		if a := f.post(old.Links.Self+"/retry", "", "Prefer: wait=5"); a.StatusCode != 200 || string(a.body) != "done" || a.Header.Get("Preference-Applied") != "wait=5" || a.Header.Get("Location") != made.Links.Self {
			t.Errorf("a repeat that waits: %d %v %s", a.StatusCode, a.Header, a.body)
		}
		if now := f.get(made.Links.Self + "?wait=5s").status(t); now.Status != api.Succeeded {
			t.Errorf("it is %+v", now)
		}
	})
}

// TestRetryOfAScatter says what to do instead.
func TestRetryOfAScatter(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.scatter("/v1/scatter?services=echo,small", "x")
		f.send(f.claimOf("echo"), broker.WorkerReply{Type: "failed"})
		if now := f.get(d.Links.Self + "?wait=5s").status(t); now.Status != api.Failed {
			t.Fatalf("it is %+v", now)
		}
		a := f.post(d.Links.Self+"/retry", "")
		a.problem(t, "not-dead")
		if a.StatusCode != 409 || !strings.Contains(string(a.body), "submit the scatter anew") {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		var l api.DeadLetterList
		if err := json.Unmarshal(f.get("/v1/dead-letters").body, &l); err != nil || len(l.DeadLetters) != 0 {
			t.Errorf("listed: %+v, %v", l, err)
		}
	})
}

func TestDeadLettersOfATenant(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for range 3 {
			f.fails("boom", as("submit"))
		}
		f.fails("other", as("submit"))
		f.fails("boom", as("globex"))
		list := func(query, key string) (l api.DeadLetterList) {
			t.Helper()
			a := f.get("/v1/dead-letters"+query, as(key))
			if err := json.Unmarshal(a.body, &l); err != nil || a.StatusCode != 200 {
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
			return l
		}
		if n := len(list("", "read").DeadLetters); n != 4 {
			t.Errorf("%d of acme", n)
		}
		page := list("?service=echo&error=boom&limit=2", "read")
		rest := list("?service=echo&error=boom&limit=2&cursor="+page.NextCursor, "read")
		if len(page.DeadLetters) != 2 || len(rest.DeadLetters) != 1 || rest.NextCursor != "" || page.DeadLetters[1].CorrelationID == rest.DeadLetters[0].CorrelationID {
			t.Errorf("%+v, then %+v", page, rest)
		}
		for _, bad := range []string{"?limit=0", "?limit=1001", "?limit=x", "?cursor=x", "?cursor=1.x", "?cursor=-1." + page.DeadLetters[0].CorrelationID} {
			f.get("/v1/dead-letters"+bad, as("read")).problem(t, "invalid-option")
		}

		a := f.post("/v1/redrives", `{"error":"boom"}`, "Content-Type: application/json", as("admin"))
		var job api.Redrive
		if err := json.Unmarshal(a.body, &job); err != nil || a.StatusCode != 202 || job.State != "running" || job.Total != 3 || a.Header.Get("Location") != job.Links.Self {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		f.get(job.Links.Self, as("globex")).problem(t, "not-found")
		f.post(job.Links.Cancel, "", as("globex")).problem(t, "not-found")
		f.get(strings.Replace(job.Links.Self, job.ID, page.DeadLetters[0].CorrelationID, 1), as("admin")).problem(t, "gone")
		time.Sleep(time.Second) // the stewards do it
		a = f.get(job.Links.Self, as("admin"))
		if err := json.Unmarshal(a.body, &job); err != nil || job.State != "done" || job.Done != 3 || job.FinishedAt.IsZero() {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		f.post(job.Links.Cancel, "", as("admin")).problem(t, "already-terminal")
		for body, problem := range map[string]string{`{"status":"queued"}`: "invalid-option", `{"limit":0}`: "invalid-option", `{"limit":-1}`: "invalid-option", `{"eror":"x"}`: "invalid-request", `{} {}`: "invalid-request"} {
			f.post("/v1/redrives", body, "Content-Type: application/json", as("admin")).problem(t, problem)
		}
		a = f.call(http.MethodDelete, "/v1/dead-letters?error=other", nil, as("admin"))
		if string(a.body) != `{"purged":1,"left":false}` {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		if n := len(list("", "globex").DeadLetters); n != 1 {
			t.Errorf("%d of globex are left", n)
		}
	}, withKeys)
}

// TestDeadFilterIsExact: a mistyped or empty filter is refused, since it would mean
// all dead letters, and to forget them is for good.
func TestDeadFilterIsExact(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		f.fails("boom")
		for _, query := range []string{"servce=x", "service=", "error=", "service=a&service=b", "status=failed", "service=%zz"} {
			f.get("/v1/dead-letters?"+query).problem(t, "invalid-option")
			f.call(http.MethodDelete, "/v1/dead-letters?"+query, nil).problem(t, "invalid-option")
		}
		f.call(http.MethodDelete, "/v1/dead-letters?limit=1", nil).problem(t, "invalid-option")
		for body, problem := range map[string]string{
			`null`: "invalid-request", `[]`: "invalid-request", `{"Service":"x"}`: "invalid-request",
			`{"service":""}`: "invalid-option", `{"error":null}`: "invalid-option",
		} {
			f.post("/v1/redrives", body, "Content-Type: application/json").problem(t, problem)
		}
		a := f.post("/v1/redrives", strings.Repeat(" ", 5000), "Content-Type: application/json")
		a.problem(t, "body-too-large")
		if !strings.Contains(string(a.body), "5000 bytes; 4096 are enough") {
			t.Errorf("too large: %s", a.body)
		}
		if a := f.post("/v1/redrives", `{"service":"limit"}`, "Content-Type: application/json"); a.StatusCode != 202 {
			t.Errorf("a service called limit: %d %s", a.StatusCode, a.body)
		}
		if a := f.get("/v1/dead-letters"); !strings.Contains(string(a.body), "boom") {
			t.Errorf("left: %s", a.body)
		}
	})
}
