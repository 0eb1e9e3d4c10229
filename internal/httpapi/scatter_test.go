package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

func (f *front) scatter(path, body string, headers ...string) api.Status {
	f.t.Helper()
	a := f.post(path, body, headers...)
	if a.StatusCode != http.StatusAccepted {
		f.t.Fatalf("scatter: %d %s", a.StatusCode, a.body)
	}
	d := a.status(f.t)
	if a.Header.Get("Location") != d.Links.Self {
		f.t.Errorf("Location is %q", a.Header.Get("Location"))
	}
	return d
}

// claimOf has a worker of one service take its leg.
func (f *front) claimOf(service string) broker.Delivery {
	f.t.Helper()
	got, err := f.broker.Claim(f.t.Context(), "w-"+service, []string{service}, 1, 2*time.Second)
	if err != nil || len(got) != 1 {
		f.t.Fatalf("claim %s: %d, %v", service, len(got), err)
	}
	return got[0]
}

func text(kind, body string) broker.WorkerReply {
	return broker.WorkerReply{Type: kind, ContentType: "text/plain", Body: []byte(body)}
}

// TestScatter: one opaque body goes to all as it is, and poll, stream and reply show
// the same answers.
func TestScatter(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.scatter("/v1/scatter?services=echo,small", "{\"not\": json\xff", "Content-Type: application/json", "X-Mine: yes", "Coatcheck-Tag: t")
		if d.Service != "*" || d.Scatter.MinReplies != 2 || len(d.Scatter.Legs) != 2 || d.QueuePosition != 0 {
			t.Fatalf("accepted as %+v", d)
		}
		r := f.follow(d.Links.Events)
		f.wantEvents(r, "retry status")
		for _, service := range []string{"small", "echo"} {
			w := f.claimOf(service)
			if string(w.Body) != "{\"not\": json\xff" || w.ContentType != "application/json" || w.Headers["x-mine"] != "yes" {
				t.Errorf("%s got %+v", service, w)
			}
			f.send(w, text("final", "from "+service))
		}
		f.wantEvents(r, "status partial1 partial2 outcome3 end")
		now := f.get(d.Links.Self).status(t)
		if now.Status != api.Succeeded || now.Reply.Encoding != "json" {
			t.Fatalf("it is %+v", now)
		}
		a := f.get(d.Links.Reply)
		if string(a.body) != string(now.Reply.Body) || a.Header.Get("Content-Type") != "application/json" || a.Header.Get(api.HeaderOutcome) != "succeeded" {
			t.Errorf("the reply is %s, the status has %s", a.body, now.Reply.Body)
		}
		var set api.GatheredReplies
		if err := json.Unmarshal(a.body, &set); err != nil || set.Succeeded != 2 || string(set.Replies[0].Body) != `"from echo"` || set.Replies[1].Service != "small" {
			t.Errorf("%s, %v", a.body, err)
		}
		if list := f.get("/v1/requests?tag=t&status=any"); !strings.Contains(string(list.body), d.CorrelationID) || strings.Count(string(list.body), `"correlation_id"`) != 1 {
			t.Errorf("the listing is %s", list.body)
		}
	})
}

// TestScatterForm: a document gives each service a body, and has all options.
func TestScatterForm(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.scatter("/v1/scatter", `{"services":["echo",{"service":"small","encoding":"base64","body":"/wA="}],"body": {"a": 1},
			"min_replies":1,"accept_partial":true,"stall_timeout":"20s","timeout":"30s","max_attempts":1,"tag":["x","y"]}`)
		if got := time.Time(d.DeadlineAt).Sub(time.Time(d.CreatedAt)); got != 30*time.Second || len(d.Tags) != 2 || d.Scatter.MinReplies != 1 {
			t.Errorf("accepted as %+v", d)
		}
		one, two := f.claimOf("echo"), f.claimOf("small")
		if string(one.Body) != `{"a": 1}` || one.ContentType != "application/json" || string(two.Body) != "\xff\x00" || two.ContentType != "application/octet-stream" {
			t.Errorf("delivered %+v and %+v", one, two)
		}
		f.send(one, text("failed", "no"))
		time.Sleep(21 * time.Second)
		now := f.get(d.Links.Self).status(t)
		if now.Status != api.TimedOut || now.Reason != "stall" || now.Scatter.Legs[0].Status != api.Failed || now.Scatter.Legs[1].Status != api.TimedOut {
			t.Errorf("it is %+v", now)
		}
		if detail := f.get(d.Links.Reply).problem(t, "timed-out"); strings.Contains(detail, "/retry") || !strings.Contains(detail, "submit the scatter again") {
			t.Errorf("a scatter can't be redriven: %s", detail)
		}
	})
}

// TestScatterWaits: with Prefer the answer is the set itself.
func TestScatterWaits(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		var worker sync.WaitGroup
		worker.Go(func() { f.send(f.claimOf("echo"), text("final", "first")) })
		defer worker.Wait() // the bubble must not end before it
		a := f.post("/v1/scatter?services=echo&services=small&min_replies=1", "x", "Prefer: wait=5")
		var set api.GatheredReplies
		if err := json.Unmarshal(a.body, &set); err != nil || a.StatusCode != http.StatusOK || set.Replies[1].Status != api.Canceled || set.Replies[1].Reason != "scatter" {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		f.get("/v1/requests/" + a.Header.Get(api.HeaderCorrelationID))
	})
}

// TestScatterFails with what there is: the reply says who did not succeed.
func TestScatterFails(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.scatter("/v1/scatter?services=echo,small", "x")
		f.send(f.claimOf("small"), broker.WorkerReply{Type: "failed", Error: &broker.Error{Code: "disk_full", Message: "No room."}})
		a := f.get(d.Links.Reply)
		if a.StatusCode != http.StatusBadGateway || a.Header.Get(api.HeaderOutcome) != "failed" || !strings.Contains(string(a.body), `"code":"disk_full"`) {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		if a := f.post(d.Links.Cancel, ""); a.StatusCode != http.StatusConflict {
			t.Errorf("cancel: %d", a.StatusCode)
		}
		d = f.scatter("/v1/scatter?services=echo,small", "x")
		if now := f.post(d.Links.Cancel, "").status(t); now.Status != api.Canceled || now.Scatter.Legs[0].Status != api.Canceled {
			t.Errorf("canceled, it is %+v", now)
		}
		if a := f.call(http.MethodDelete, d.Links.Self, nil); a.StatusCode != http.StatusNoContent {
			t.Errorf("delete: %d", a.StatusCode)
		}
		f.get(d.Links.Self).problem(t, "gone")
	})
}

// TestScatterRefused says why, and takes nothing.
func TestScatterRefused(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for _, c := range []struct{ path, body, slug, says string }{
			{"?services=echo", "x", "invalid-option", "goes to 2 to 100 services, and the call names 1"},
			{"?services=echo,echo", "x", "invalid-option", `"echo" is named twice`},
			{"?services=echo,nobody", "x", "unknown-service", `"nobody"`},
			{"?services=echo,small&min_replies=3", "x", "invalid-option", "min_replies is"},
			{"?services=echo,small&stall_timeout=never", "x", "invalid-option", "stall_timeout is"},
			{"?services=echo,small&accept_partial=perhaps", "x", "invalid-option", "accept_partial is"},
			{"?services=echo,small&color=red", "x", "invalid-option", `"color"`},
			{"?min_replies=1", `{"services":["echo","small"]}`, "invalid-option", "names no services"},
			{"", "x", "invalid-request", "no JSON object"},
			{"", `{}`, "invalid-option", "services must be"},
			{"", `{"services":["echo",7]}`, "invalid-option", "neither a name"},
			{"", `{"services":["echo",{"service":"small","timeout":"1s"}]}`, "invalid-option", `"timeout"`},
			{"", `{"services":["echo","small"],"color":"red"}`, "invalid-option", `no field "color"`},
			{"", `{"services":["echo","small"],"timeout":"never"}`, "invalid-option", `timeout is "never"`},
			{"", `{"services":["echo","small"],"tag":[1]}`, "invalid-option", `"tag" must be`},
			{"", `{"services":["echo","small"],"encoding":"rot13","body":""}`, "invalid-option", "encoding is"},
			{"", `{"services":["echo","small"],"encoding":"base64","body":"!"}`, "invalid-option", "no base64"},
			{"", `{"services":["echo","small"],"encoding":"text","body":7}`, "invalid-option", "must be a string"},
			{"", `{"services":["echo","small"],"cache_control":"only-if-cached"}`, "not-cached", "a scatter shares none"},
			{"", `{"services":["echo","small"` + strings.Repeat(`,"x"`, 99) + `]}`, "invalid-option", "more than 100 services"},
		} {
			if got := f.post("/v1/scatter"+c.path, c.body).problem(t, c.slug); !strings.Contains(got, c.says) {
				t.Errorf("%s %s says %q", c.path, c.body, got)
			}
		}
		f.post("/v1/scatter?services=echo,small", "x", "Cache-Control: only-if-cached").problem(t, "not-cached")
		both := f.post("/v1/scatter", `{"services":["echo","small"],"return":"minimal"}`, "Prefer: return=representation").problem(t, "invalid-option")
		if !strings.Contains(both, `"return" is given in the document and as a header`) {
			t.Errorf("return twice says %q", both)
		}
		f.scatter("/v1/scatter?services=echo,small", "x", "Idempotency-Key: k")
		f.post("/v1/scatter?services=echo,small", "x").problem(t, "queue-full")
		f.post("/v1/scatter?services=echo,small", "y", "Idempotency-Key: k").problem(t, "idempotency-mismatch")
		if a := f.post("/v1/scatter?services=echo,small", "x", "Idempotency-Key: k"); a.Header.Get(api.HeaderIdempotencyReplayed) != "true" {
			t.Errorf("again: %d %s", a.StatusCode, a.body)
		}
		f.accepted(1)
	})
}

// TestScatterIsRedacted: each answer by what holds for its service.
func TestScatterIsRedacted(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.scatter("/v1/scatter?services=echo,small", "x")
		for _, service := range []string{"echo", "small"} {
			f.send(f.claimOf(service), broker.WorkerReply{Type: "final", ContentType: "application/json", Body: []byte(`{"card":"4111"}`)})
		}
		shown := string(f.get(d.Links.Self + "?redact=true").body)
		if strings.Count(shown, "4111") != 1 || !strings.Contains(shown, `"service":"small","status":"succeeded","status_code":200,"content_type":"application/json","encoding":"json","body":{"card":"4111"}`) {
			t.Errorf("shown: %s", shown)
		}
	}, func(o *httpapi.Options) { o.Redact = map[string][]string{"echo": {"/card"}} })
}
