package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

func (f *front) record(id string) broker.Record {
	f.t.Helper()
	parsed, err := correlation.Parse(id)
	if err != nil {
		f.t.Fatal(err)
	}
	r, err := f.broker.Status(f.t.Context(), parsed)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// options of a submit, as an item and as headers. A new option that is missing here
// fails the test.
var options = map[string]struct{ item, header string }{
	"timeout":         {`"90s"`, "Coatcheck-Timeout: 90s"},
	"start_timeout":   {`40`, "Coatcheck-Start-Timeout: 40"},
	"run_timeout":     {`"30s"`, "Coatcheck-Run-Timeout: 30s"},
	"retention":       {`"1h"`, "Coatcheck-Retention: 1h"},
	"max_attempts":    {`7`, "Coatcheck-Max-Attempts: 7"},
	"backoff":         {`"2s"`, "Coatcheck-Backoff: 2s"},
	"delay":           {`"10m"`, "Coatcheck-Delay: 10m"},
	"priority":        {`"high"`, "Coatcheck-Priority: high"},
	"ordering_key":    {`"one"`, "Coatcheck-Ordering-Key: one"},
	"concurrency_key": {`"two"`, "Coatcheck-Concurrency-Key: two"},
	"callback_url":    {`"https://example.com/a"`, "Coatcheck-Callback-Url: https://example.com/a"},
	"callback_events": {`["failed","timed_out"],"callback_url":"https://example.com/b"`, "Coatcheck-Callback-Events: failed,timed_out"},
	"tag":             {`["a","b"]`, "Coatcheck-Tag: a,b"},
	"return":          {`"minimal"`, "Prefer: return=minimal"},
	"traceparent":     {`"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"`, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	"idempotency_key": {`"mine"`, "Idempotency-Key: mine"},
	"cache_control":   {`"no-store"`, "Cache-Control: no-store"},
}

// TestItemOptions: every option that a submit has works in an item, and means there
// what it means as a header.
func TestItemOptions(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for _, header := range api.Options {
			field := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(header, api.OptionPrefix)), "-", "_")
			if _, ok := options[field]; !ok {
				t.Errorf("nothing is tried for %s", field)
			}
		}
		strip := func(r broker.Record) string {
			r.ID, r.Created, r.Queued = correlation.ID{}, time.Time{}, time.Time{}
			r.Deadline, r.Release, r.Ordinal, r.Rank = r.Deadline.Truncate(time.Minute), r.Release.Truncate(time.Minute), 0, 0
			text := fmt.Sprintf("%+v", r.Callback)
			r.Callback = nil
			return fmt.Sprintf("%+v %s", r, text)
		}
		for name, o := range options {
			d := f.batch(fmt.Sprintf(`[{"service":"echo","content_type":"text/plain","encoding":"text","body":"x",%q:%s}]`, name, o.item))
			if d.Accepted != 1 {
				t.Errorf("%s: %+v", name, d.Items)
				continue
			}
			if name == "idempotency_key" { // shows by its replay
				again := f.batch(`[{"service":"echo","content_type":"text/plain","encoding":"text","body":"x","idempotency_key":"mine"}]`)
				single := f.submit("x", o.header, "Content-Type: text/plain").CorrelationID
				if first := d.Items[0]; d.BatchID == again.BatchID || !again.Items[0].Replayed || first.Replayed || again.Items[0].CorrelationID != first.CorrelationID || single != first.CorrelationID {
					t.Errorf("%s: %+v, then %+v, then %s", name, d.Items, again.Items, single)
				}
				continue
			}
			headers := []string{o.header, "Content-Type: text/plain"}
			if name == "callback_events" {
				headers = append(headers, "Coatcheck-Callback-Url: https://example.com/b")
			}
			plain, alone, item := f.record(f.submit("x", "Content-Type: text/plain").CorrelationID), f.record(f.submit("x", headers...).CorrelationID), f.record(d.Items[0].CorrelationID)
			if diff := cmp.Diff(strip(alone), strip(item)); diff != "" {
				t.Errorf("%s, alone and as an item: %s", name, diff)
			}
			shows := !slices.Contains([]string{"start_timeout", "run_timeout", "retention", "backoff", "ordering_key", "concurrency_key", "cache_control"}, name)
			if shows && strip(plain) == strip(item) {
				t.Errorf("%s changes nothing", name)
			}
		}
	}, func(o *httpapi.Options) { o.CheckCallback = func(string) error { return nil } })
}

// TestItemPolicies: what does not show in a status works, too.
func TestItemPolicies(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.batch(`[{"service":"echo","body":1,"ordering_key":"k"},{"service":"echo","body":2,"ordering_key":"k"},
			{"service":"echo","body":3,"start_timeout":"2s"},{"service":"echo","body":4,"retention":"5s"}]`)
		if d.Accepted != 4 {
			t.Errorf("%+v", d.Items)
		}
		for range 3 { // in any order
			if w := f.claim(); string(w.Body) != "3" {
				f.send(w, broker.WorkerReply{Type: "final"})
			}
		}
		if w := f.claim(); string(w.Body) != "2" {
			t.Errorf("the next of the key is %s", w.Body)
		}
		time.Sleep(6 * time.Second)
		f.mini.FastForward(6 * time.Second)
		f.get("/v1/requests/"+d.Items[3].CorrelationID).problem(t, "gone")
	})
}

// TestItemHeaders: those of the call go to all items, those of an item over them,
// and what is the gateway's own goes nowhere.
func TestItemHeaders(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.batch(`[{"service":"echo"},{"service":"echo","headers":{"x-mine":"item"},"timeout":"40s","return":"representation"},
			{"service":"echo","headers":{"Authorization":"x"}},{"service":"echo","headers":{"coatcheck-timeout":"1s"}},{"service":"echo","headers":{"x-a":1}},
			{"service":"echo","headers":{"X-A":"a\u0007"}},{"service":"echo","headers":{"x-a":"1","X-A":"2"}},{"service":"echo","service":"small"},{"service":""},{"service":7},{"service":"echo","body":7,"encoding":"text"},{"service":"echo","body":"*","encoding":"base64"},
			{"service":"echo","encoding":"xml","body":""},{"service":"echo","tag":{"a":1}},{"service":"echo","content_type":7},{"service":"echo","idempotency_key":"a b"}]`,
			"X-Mine: call", "Coatcheck-Timeout: 30s", "Prefer: return=minimal, wait=5")
		if d.Accepted != 2 || d.Refused != 14 {
			t.Errorf("%+v", d.Items)
		}
		for i, item := range d.Items[2:] {
			if item.StatusCode != 400 || !strings.Contains(item.Problem.Detail, "tem was not accepted") || strings.Contains(item.Problem.Detail, "Nothing") || item.RetryAfter != 0 {
				t.Errorf("item %d: %+v", i+2, item)
			}
		}
		got := map[string]string{}
		for range 2 {
			w := f.claim()
			r := f.record(w.ID)
			got[w.ID] = fmt.Sprintf("%s %v %t", w.Headers["x-mine"], r.Deadline.Sub(r.Created), r.Minimal)
		}
		for i, want := range []string{"call 30s true", "item 40s false"} {
			if got := got[d.Items[i].CorrelationID]; got != want {
				t.Errorf("item %d: %s, want %s", i, got, want)
			}
		}
		a := f.post("/v1/batches", `[{"service":"echo"}]`, "Prefer: return=minimal, wait=5")
		if got := a.Header.Get("Preference-Applied"); got != "return=minimal" {
			t.Errorf("Preference-Applied: %q", got)
		}
		f.post("/v1/batches", `[{"service":"echo"}]`, "Coatcheck-Timeuot: 1s").problem(t, "invalid-option")
	})
}

// TestBatchLimits: a thousand items go, one more does not; what has no room is
// refused item by item, and says when to come again.
func TestBatchLimits(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		line := `{"service":"echo"}` + "\n"
		d := f.batch(strings.Repeat(line, 1000), "Content-Type: application/x-ndjson")
		ids := map[string]bool{}
		for _, item := range d.Items {
			ids[item.CorrelationID] = true
		}
		if d.Accepted != 1000 || len(ids) != 1000 {
			t.Errorf("%d are accepted, with %d IDs", d.Accepted, len(ids))
		}
		f.post("/v1/batches", strings.Repeat(line, 1001), "Content-Type: application/jsonl").problem(t, "invalid-request")
		f.post("/v1/batches", line, "Content-Type: application/json").problem(t, "invalid-request")
		if d := f.batch("[7,\n"+line, "Content-Type: application/jsonl"); d.Accepted != 1 || d.Items[0].StatusCode != 400 {
			t.Errorf("a bad line: %+v", d)
		}
		f.post("/v1/batches", `[`+strings.Repeat(" ", 1<<20)+`]`).problem(t, "body-too-large")

		d = f.batch(`[{"service":"small"},{"service":"small"},{"service":"echo"}]`)
		full, other := d.Items[0], d.Items[1] // whichever came later
		if full.StatusCode == 202 {
			full, other = other, full
		}
		if got := fmt.Sprint(full.StatusCode, other.StatusCode, d.Items[2].StatusCode); got != "429 202 202" {
			t.Errorf("the codes are %s", got)
		}
		if full.RetryAfter < 1 || full.Problem.Type != "/problems/queue-full" || full.CorrelationID != "" {
			t.Errorf("the queue is full: %+v", full)
		}
		f.redis(false)
		if a := f.post("/v1/batches", line); a.StatusCode != http.StatusServiceUnavailable && a.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("without Redis: %d %s", a.StatusCode, a.body)
		}
		f.redis(true)
	}, func(o *httpapi.Options) { o.MaxBody = 1 << 20 })
}

// TestBatchAgainWithRoom: the same call again gets in what was refused, and runs the
// rest no second time.
func TestBatchAgainWithRoom(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		const body = `[{"service":"small","ordering_key":"k"},{"service":"small","body":2,"ordering_key":"k"},{"service":"echo"}]`
		d := f.batch(body, "Idempotency-Key: k")
		if d.Accepted != 2 || d.Items[1].StatusCode != 429 {
			t.Fatalf("%+v", d)
		}
		f.post("/v1/requests/"+d.Items[0].CorrelationID+"/cancel", "")
		f.call("DELETE", "/v1/requests/"+d.Items[0].CorrelationID, nil)
		again := f.batch(body, "Idempotency-Key: k")
		if again.Accepted != 3 || !again.Items[0].Replayed || again.Items[1].Replayed || again.Items[0].Status != "" ||
			again.Items[0].CorrelationID != d.Items[0].CorrelationID || again.Items[2].CorrelationID != d.Items[2].CorrelationID {
			t.Errorf("sent again: %+v", again)
		}
		if c := f.counts(d.Links.Self); c.Accepted != 3 || c.Canceled != 1 || c.Open != 2 || c.Complete {
			t.Errorf("the counts are %+v", c)
		}
	})
}
