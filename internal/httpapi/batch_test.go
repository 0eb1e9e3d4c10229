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

func (f *front) batch(body string, headers ...string) api.BatchAnswer {
	f.t.Helper()
	a := f.post("/v1/batches", body, headers...)
	var d api.BatchAnswer
	if err := json.Unmarshal(a.body, &d); err != nil || d.BatchID == "" || a.Header.Get("Location") != d.Links.Self {
		f.t.Fatalf("submit a batch: %d %s", a.StatusCode, a.body)
	}
	return d
}

func (f *front) counts(path string) api.Batch {
	f.t.Helper()
	a := f.get(path)
	var d api.Batch
	if err := json.Unmarshal(a.body, &d); err != nil || a.StatusCode != http.StatusOK {
		f.t.Fatalf("%s: %d %s", path, a.StatusCode, a.body)
	}
	return d
}

// TestBatch: items are accepted or refused each for itself, counted, followed
// across a reconnect, and canceled together.
func TestBatch(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.batch(`[{"service":"echo","body": {"a": 1},"timeout":"30s"},
			{"service":"nobody"}, {"service":"echo","timeout":"never"}, 7,
			{"service":"echo","encoding":"base64","body":"/wA=","return":"minimal","headers":{"x-one":"1"}},
			{"service":"echo","encoding":"text","body":"hi","color":"red"},
			{"service":"echo","encoding":"text","body":"hi"}]`)
		if d.Accepted != 3 || d.Refused != 4 {
			t.Fatalf("%+v", d)
		}
		var codes []int
		for _, i := range d.Items {
			codes = append(codes, i.StatusCode)
		}
		if want := []int{202, 404, 400, 400, 202, 400, 202}; !equal(codes, want) {
			t.Errorf("the codes are %v, want %v", codes, want)
		}
		if got := d.Items[2].Problem.Detail; !strings.HasPrefix(got, `timeout is "never"`) {
			t.Errorf("the bad option says %q", got)
		}
		if got := f.server.Problems(); got["invalid-option"] != 2 || got["unknown-service"] != 1 || got["invalid-request"] != 1 || got["gone"] != 0 {
			t.Errorf("counted %v", got)
		}
		r := f.follow(d.Links.Events)
		f.wantEvents(r, "retry status")
		got := map[string]broker.Delivery{}
		for range 3 {
			w := f.claim()
			got[string(w.Body)] = w
		}
		if w := got[`{"a": 1}`]; w.ContentType != "application/json" {
			t.Errorf("the JSON item came as %+v", w)
		}
		if w := got["\xff\x00"]; w.ContentType != "application/octet-stream" {
			t.Errorf("the base64 item came as %+v", w)
		}
		f.send(got["hi"], broker.WorkerReply{Type: "final"})
		f.wantEvents(r, "item0.1 status")
		r.hangUp()
		if c := f.counts(d.Links.Self); c.Open != 2 || c.Succeeded != 1 || c.Complete || c.Items != 7 {
			t.Errorf("the counts are %+v", c)
		}
		go func() { f.send(got[`{"a": 1}`], broker.WorkerReply{Type: "failed"}) }()
		time.Sleep(time.Second)
		if a := f.post(d.Links.Cancel, ""); a.StatusCode != http.StatusOK {
			t.Errorf("cancel: %d %s", a.StatusCode, a.body)
		}
		if c := f.counts(d.Links.Self + "?wait=5s"); !c.Complete || c.Open != 0 || c.Failed != 1 || c.Canceled != 1 {
			t.Errorf("the counts are %+v", c)
		}
		f.wantEvents(f.follow(d.Links.Events, "Last-Event-ID: 0.1"), "retry item0.2 item0.3 outcomeend end")
		if a := f.get(d.Links.Events, "Last-Event-ID: end"); a.StatusCode != http.StatusNoContent {
			t.Errorf("after the outcome: %d", a.StatusCode)
		}
		f.get(d.Links.Events, "Last-Event-ID: x").problem(t, "invalid-option")
		f.get("/v1/requests/"+d.BatchID).problem(t, "not-found")
		f.get("/v1/batches/"+d.Items[0].CorrelationID).problem(t, "not-found")
		f.mini.FastForward(26 * time.Hour)
		f.get(d.Links.Self).problem(t, "gone")
	})
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestBatchAgain: the same key and payload give the same batch, whose items are
// not submitted twice.
func TestBatchAgain(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		const lines = "{\"service\":\"echo\",\"body\":1}\n\n{\"service\":\"echo\",\"body\":2}\n"
		first := f.batch(lines, "Idempotency-Key: one")
		second := f.batch(lines, "Idempotency-Key: one")
		if first.BatchID != second.BatchID || first.Items[1].CorrelationID != second.Items[1].CorrelationID {
			t.Errorf("%+v, then %+v", first, second)
		}
		f.accepted(2)
		f.post("/v1/batches", "[]").problem(t, "invalid-request")
		f.post("/v1/batches", "[{").problem(t, "invalid-request")
		f.post("/v1/batches", lines+lines, "Idempotency-Key: one").problem(t, "idempotency-mismatch")
		if a := f.post("/v1/batches", `{"service":"nobody"}`); a.StatusCode != http.StatusOK {
			t.Errorf("none accepted: %d", a.StatusCode)
		}
	})
}

// TestBatchOfAnother tenant is as one that never was.
func TestBatchOfAnother(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.batch(`[{"service":"echo"}]`, as("all"))
		for _, path := range []string{d.Links.Self, d.Links.Events} {
			f.get(path, as("globex")).problem(t, "not-found")
		}
		f.post(d.Links.Cancel, "", as("globex")).problem(t, "not-found")
	}, withKeys)
}

// TestBatchNotModified: a poll with the ETag that it had is answered as one of a
// request is.
func TestBatchNotModified(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		self := f.batch(`[{"service":"echo"}]`).Links.Self
		known := "If-None-Match: " + f.get(self).Header.Get("ETag")
		if a := f.get(self, known); a.StatusCode != http.StatusNotModified || len(a.body) > 0 {
			t.Errorf("a poll: %d %s", a.StatusCode, a.body)
		}
		if a := f.get(self+"?wait=1s", known); a.StatusCode != http.StatusOK {
			t.Errorf("a long-poll: %d %s", a.StatusCode, a.body)
		}
		f.send(f.claim(), broker.WorkerReply{Type: "final"})
		if a := f.get(self+"?wait=5s", known); a.StatusCode != http.StatusOK || "If-None-Match: "+a.Header.Get("ETag") == known {
			t.Errorf("changed: %d %v", a.StatusCode, a.Header)
		}
	})
}
