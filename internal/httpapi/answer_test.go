package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

// TestRepliesThatEnd an attempt: each by parameter and by header.
func TestRepliesThatEnd(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for name, c := range map[string]struct {
			query, body string
			headers     []string
			is          func(api.Status) bool
		}{
			"final, the default": {"", "done", nil, func(s api.Status) bool {
				return s.Status == api.Succeeded && s.Reply.StatusCode == 200 && string(s.Reply.Body) == `"done"`
			}},
			"final by header": {"", "done", []string{"Coatcheck-Reply-Type: final", "Coatcheck-Status-Code: 203", "Coatcheck-Seq: 1"}, func(s api.Status) bool {
				return s.Status == api.Succeeded && s.Reply.StatusCode == 203
			}},
			"failed": {"?type=failed&error=the+disk+is+full&error_code=disk_full&status_code=507", "see above", nil, func(s api.Status) bool {
				return s.Status == api.Failed && s.Error == (api.Error{Code: "disk_full", Message: "the disk is full"}) && s.Reply.StatusCode == 507 && string(s.Reply.Body) == `"see above"`
			}},
			"failed by header": {"", "", []string{"Coatcheck-Reply-Type: failed", "Coatcheck-Error: voll, ü", "Coatcheck-Error-Code: x"}, func(s api.Status) bool {
				return s.Status == api.Failed && s.Error == (api.Error{Code: "x", Message: "voll, ü"}) && s.Reply.ContentType == ""
			}},
			"failed, and not why": {"?type=failed", "", nil, func(s api.Status) bool {
				return s.Status == api.Failed && s.Error.Code == "worker_error"
			}},
			"retry at once": {"?type=retry&delay=0", "", nil, func(s api.Status) bool { return s.Status == api.Queued && s.Attempt == 2 }},
			"retry later": {"?type=retry&delay=1m&error=busy", "", nil, func(s api.Status) bool {
				return s.Status == api.Scheduled && s.Attempt == 2
			}},
			"retry by header": {"", "", []string{"Coatcheck-Reply-Type: retry", "Coatcheck-Delay: 30"}, func(s api.Status) bool {
				return s.Status == api.Scheduled && s.Attempt == 2
			}},
			"retry when the gateway likes": {"?type=retry", "", nil, func(s api.Status) bool { return s.Status == api.Scheduled && s.Attempt == 2 }},
		} {
			d := f.submit("x")
			c1 := f.one()
			a := f.post(c1.Links.Replies+c.query, c.body, append(c.headers, "Content-Type: text/plain")...)
			if a.StatusCode != http.StatusAccepted || len(a.body) != 0 {
				t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
			}
			settled()
			if s := f.get(d.Links.Self); !c.is(s.status(t)) {
				t.Errorf("%s: %s", name, s.body)
			}
			f.call("DELETE", d.Links.Self, nil)
		}
	})
}

// TestHeartbeatKeepsTheLease, and nothing else does.
func TestHeartbeatKeepsTheLease(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		kept, lost := f.submit("kept"), f.submit("lost")
		mine, theirs := f.one(), f.one()
		for range 5 {
			time.Sleep(15 * time.Second)
			if a := f.post(mine.Links.Replies+"?type=heartbeat", ""); a.StatusCode != http.StatusAccepted {
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
		}
		if s := f.get(kept.Links.Self).status(t); s.Status != "running" || s.Attempt != 1 {
			t.Errorf("kept: %s, attempt %d", s.Status, s.Attempt)
		}
		if s := f.get(lost.Links.Self).status(t); s.Status != "queued" || s.Attempt != 2 {
			t.Errorf("lost: %s, attempt %d", s.Status, s.Attempt)
		}
		if detail := f.post(theirs.Links.Replies+"?type=heartbeat", "").problem(t, "claim-lost"); !strings.Contains(detail, "its lease ended") || !strings.Contains(detail, "queued now") {
			t.Error(detail)
		}
	})
}

// TestLostClaims: a worker hears that its work is wanted no more.
func TestLostClaims(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for name, c := range map[string]struct {
			lose         func(api.Status, api.Claim)
			slug, detail string
		}{
			"canceled":  {func(d api.Status, _ api.Claim) { f.post(d.Links.Cancel, "") }, "claim-lost", "it is canceled."},
			"answered":  {func(_ api.Status, c api.Claim) { f.post(c.Links.Replies, "x") }, "claim-lost", "it is succeeded."},
			"timed out": {func(api.Status, api.Claim) { time.Sleep(20 * time.Second) }, "claim-lost", "it is timed_out."},
			"forgotten": {func(d api.Status, _ api.Claim) { f.call("DELETE", d.Links.Self, nil) }, "gone", ""},
		} {
			d := f.submit("x", "Coatcheck-Timeout: 15s")
			c1 := f.one()
			c.lose(d, c1)
			settled()
			for _, kind := range []string{"heartbeat", "progress", "partial", "final", "failed", "retry"} {
				a := f.post(c1.Links.Replies+"?type="+kind, "")
				if detail := a.problem(t, c.slug); !strings.Contains(detail, c.detail) || a.Header.Get("X-Correlation-ID") != d.CorrelationID {
					t.Errorf("%s, %s: %v %s", name, kind, a.Header, a.body)
				}
			}
			f.call("DELETE", d.Links.Self, nil)
		}
		d := f.submit("x")
		token := f.one().Token
		for _, wrong := range []string{"x", token + "0", token[:len(token)-1], d.CorrelationID, strings.Repeat("x", 10_000), "%20" + token} {
			a := f.post("/v1/claims/"+wrong+"/replies?type=heartbeat", "")
			a.problem(t, "unknown-claim")
			if a.Header.Get("X-Correlation-ID") != "" {
				t.Errorf("%.60s: it says whose it is", wrong)
			}
		}
		if a := f.post("/v1/claims/"+strings.ReplaceAll(token, "-", "%2D")+"/replies?type=heartbeat", ""); a.StatusCode != http.StatusAccepted {
			t.Errorf("an escaped token: %d %s", a.StatusCode, a.body)
		}
	})
}

// TestRepliesThatCannotBe: nothing is guessed, nothing taken.
func TestRepliesThatCannotBe(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		c := f.one()
		for _, wrong := range []struct{ query, header string }{
			{"?type=finale", ""},
			{"?type=", ""},
			{"?type=FINAL", ""},
			{"?tpye=failed", ""},
			{"?type=final&type=failed", ""},
			{"?type=final", "Coatcheck-Reply-Type: failed"},
			{"", "Coatcheck-Reply-Typ: failed"},
			{"", "Coatcheck-Timeout: 10s"},
			{"?seq=0", ""},
			{"?seq=-1", ""},
			{"?seq=x", ""},
			{"?seq=99999999999", ""},
			{"?seq=1&seq=2", ""},
			{"?status_code=99", ""},
			{"?status_code=600", ""},
			{"?type=progress&status_code=200", ""},
			{"?type=final&delay=1s", ""},
			{"?type=final&error=x", ""},
			{"?type=heartbeat&error_code=x", ""},
			{"?type=retry&delay=soon", ""},
			{"?type=retry&delay=-1s", ""},
			{"?type=failed&error=a%00b", ""},
			{"?type=failed&error=%ff", ""},
			{"?type=failed", "Coatcheck-Error: \xff"},
			{"?type=%zz", ""},
			{"", "Content-Type: " + strings.Repeat("x", 300)},
			{"", "Coatcheck-Header-: x"},
			{"", "Coatcheck-Header-X-A: \xff"},
			{"", "Coatcheck-Header-X-A: " + strings.Repeat("x", 5000)},
			{"?type=progress", "Coatcheck-Header-X-A: x"},
		} {
			var headers []string
			if wrong.header != "" {
				headers = append(headers, wrong.header)
			}
			if detail := f.post(c.Links.Replies+wrong.query, "x", headers...).problem(t, "invalid-option"); !strings.Contains(detail, "not taken") {
				t.Errorf("%v: %s", wrong, detail)
			}
		}
		if detail := f.post(c.Links.Replies+"?tpye=failed", "x").problem(t, "invalid-option"); !strings.Contains(detail, `no parameter "tpye"`) || !strings.Contains(detail, "error_code, seq, status_code, type") {
			t.Error(detail)
		}
		for kind, size := range map[string]int{"progress": 256<<10 + 1, "partial": 256<<10 + 1, "final": 11 << 20} {
			f.post(c.Links.Replies+"?type="+kind, strings.Repeat("x", size)).problem(t, "body-too-large")
		}
		if s := f.get(d.Links.Self).status(t); s.Status != "running" || s.Events != 0 {
			t.Errorf("%s, %d events", s.Status, s.Events)
		}
		if a := f.post(c.Links.Replies+"?type=partial", strings.Repeat("x", 256<<10)); a.StatusCode != http.StatusAccepted {
			t.Errorf("an event as large as may be: %d %s", a.StatusCode, a.body)
		}
		time.Sleep(time.Second) // net/http lingers behind what it did not read
	})
}

// TestReplyHeaders reach the client, but none that the gateway answers for.
func TestReplyHeaders(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for _, kind := range []string{"final", "failed"} {
			d := f.submit("x")
			a := f.post(f.one().Links.Replies+"?type="+kind, "body", "Coatcheck-Header-X-Page: 2", "Coatcheck-Header-Etag: mine",
				"Coatcheck-Header-X-Correlation-Id: forged", "Coatcheck-Header-Set-Cookie: a=b", "Coatcheck-Header-Content-Length: 1")
			if a.StatusCode != http.StatusAccepted {
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
			settled()
			a = f.get(d.Links.Reply)
			if h := a.Header; h.Get("X-Page") != "2" || h.Get("X-Correlation-ID") != d.CorrelationID || h.Get("Set-Cookie") != "" || string(a.body) != "body" {
				t.Errorf("%s: %v %s", kind, h, a.body)
			}
		}
	})
}
