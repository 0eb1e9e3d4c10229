package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

func (a answer) page(t *testing.T) api.ReplyPage {
	t.Helper()
	var p api.ReplyPage
	if err := json.Unmarshal(a.body, &p); err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("no page of replies (%d): %s", a.StatusCode, a.body)
	}
	return p
}

// TestReplies: they are listed by pages, from whatever number on, and bytes that
// are no text come as base64.
func TestReplies(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		path := f.submit("x").Links.Self + "/replies"
		if p := f.get(path).page(t); len(p.Replies) != 0 || p.Last != 0 || p.More || p.Reset != (api.Reset{}) {
			t.Errorf("before any: %+v", p)
		}
		work := f.claim()
		f.send(work, progress(`{"percent":50}`))
		f.send(work, broker.WorkerReply{Type: "partial", ContentType: "text/plain", Body: []byte("two")})
		f.send(work, broker.WorkerReply{Type: "partial", ContentType: "image/png", Body: []byte{0xff, 0}})
		f.send(work, broker.WorkerReply{Type: "final", ContentType: "text/plain", Body: []byte("done")})
		p := f.get(path + "?limit=2").page(t)
		if len(p.Replies) != 2 || p.Replies[0].Type != "progress" || string(p.Replies[1].Body) != `"two"` || !p.More || p.After != 2 || p.Status != "succeeded" {
			t.Errorf("the first page: %+v", p)
		}
		p = f.get(path + "?after=2").page(t)
		if len(p.Replies) != 1 || p.Replies[0].Encoding != "base64" || string(p.Replies[0].Body) != `"/wA="` || p.More || p.Last != 3 {
			t.Errorf("the last page: %+v", p)
		}
		if p = f.get(path + "?after=99").page(t); len(p.Replies) != 0 || p.After != 3 || p.More {
			t.Errorf("behind the end: %+v", p)
		}
		if p.Final.StatusCode != 200 || string(p.Final.Body) != `"done"` {
			t.Errorf("the final one is %+v", p.Final)
		}
		if first := f.get(path + "?limit=2").page(t); first.Final.StatusCode != 0 {
			t.Errorf("the final one is on the first page: %+v", first.Final)
		}
		for _, wrong := range []string{"?after=-1", "?after=x", "?limit=0", "?limit=257"} {
			f.get(path+wrong).problem(t, "invalid-option")
		}
	})
}

// TestSubmitAndStream: one call submits and follows. Who hangs up cancels nothing
// and goes on where it was; who comes late sees everything.
func TestSubmitAndStream(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		ctx, hangUp := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway/v1/services/echo/requests", strings.NewReader("x"))
		r.Header.Set("Accept", "text/event-stream")
		r.Header.Set("Prefer", "wait=30, return=minimal")
		response, err := f.client.Do(r) //nolint:bodyclose // by read
		if err != nil {
			t.Fatal(err)
		}
		id := response.Header.Get("X-Correlation-Id")
		if response.StatusCode != http.StatusAccepted || response.Header.Get("Content-Type") != "text/event-stream" ||
			response.Header.Get("Location") != "/v1/requests/"+id || response.Header.Get("Preference-Applied") != "return=minimal" {
			t.Errorf("%d %v", response.StatusCode, response.Header)
		}
		stream := &reader{f: f, frames: make(chan frame, 100)}
		go stream.read(response.Body)
		f.wantEvents(stream, "retry")
		if first := stream.next().text; !strings.HasPrefix(first, "event: status\n") || !strings.Contains(first, id) || !strings.Contains(first, `"events":"/v1/requests/`) {
			t.Errorf("the first event is %s", first)
		}
		work := f.claim()
		f.send(work, progress("1"))
		f.wantEvents(stream, "status progress1")
		hangUp()
		settled()
		f.send(work, progress("2"))
		f.send(work, broker.WorkerReply{Type: "final", Body: []byte("done")})
		f.wantEvents(f.follow("/v1/requests/"+id+"/events", "Last-Event-ID: 1"), "retry status progress2 outcome3 end")
		f.wantEvents(f.follow("/v1/requests/"+id+"/events"), "retry status progress1 progress2 outcome3 end")
	})
}

// TestWhoWantsAStream: only who names it, and likes no JSON better.
func TestWhoWantsAStream(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for _, accept := range []string{"*/*", "text/*", "application/json", "text/event-stream;q=0", "application/json, text/event-stream;q=0.5"} {
			if a := f.post("/v1/services/echo/requests", "x", "Accept: "+accept); a.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s brings %s", accept, a.Header.Get("Content-Type"))
			}
		}
		a := f.post("/v1/services/nobody/requests", "x", "Accept: text/event-stream")
		a.problem(t, "unknown-service")
	})
}

// TestMinimal: the outcome is confirmed, the reply is not kept.
func TestMinimal(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		a := f.post("/v1/services/echo/requests", "x", "Prefer: return=minimal")
		if got := a.Header.Get("Preference-Applied"); got != "return=minimal" {
			t.Errorf("applied: %q", got)
		}
		d := a.status(t)
		f.echo()
		done := f.get(d.Links.Self).status(t)
		if done.Status != "succeeded" || done.Reply.Size != 0 || done.Reply.StatusCode != 0 || done.Events != 1 {
			t.Errorf("the status is %+v", done)
		}
		if a := f.get(d.Links.Reply); a.StatusCode != http.StatusNoContent || a.Header.Get("Coatcheck-Outcome") != "succeeded" || len(a.body) != 0 {
			t.Errorf("the reply is %d %s", a.StatusCode, a.body)
		}
		d = f.submit("x", "Prefer: return=minimal")
		f.echo(func(r *broker.WorkerReply) {
			r.Type, r.Error, r.Body = "failed", &broker.Error{Message: "out of paper"}, []byte("long story")
		})
		if why := f.get(d.Links.Reply).problem(t, "reply-failed"); !strings.HasPrefix(why, "out of paper.") {
			t.Errorf("the failure says %q", why)
		}
		d = f.submit("x", "Prefer: return=representation")
		f.echo()
		if a := f.get(d.Links.Reply); string(a.body) != "x" {
			t.Errorf("the reply is %d %s", a.StatusCode, a.body)
		}
	})
}

// TestRepliesAreBounded: a page ends after its bytes, and whatever was cut is said,
// in pages and in streams.
func TestRepliesAreBounded(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		work := f.claim()
		large := strings.Repeat("x", 200<<10)
		for range 60 { // 12 MB, of which 8 MiB are kept
			f.send(work, broker.WorkerReply{Type: "partial", ContentType: "text/plain", Body: []byte(large)})
		}
		f.send(work, broker.WorkerReply{Type: "failed", Error: &broker.Error{Message: "enough"}})
		seen, pages := 0, 0
		for after, more := 0, true; more; pages++ {
			a := f.get(fmt.Sprintf("%s/replies?after=%d&limit=256", d.Links.Self, after))
			p := a.page(t)
			if (p.Reset.First > 0) != (pages == 0) || len(a.body) > 3<<19 || len(p.Replies) == 0 {
				t.Fatalf("page %d after %d has %d bytes, %d replies, reset %+v", pages, after, len(a.body), len(p.Replies), p.Reset)
			}
			if p.Replies[0].Number != max(after+1, p.Reset.First) || (p.Error.Message == "enough") != !p.More {
				t.Errorf("page %d begins with %d, error %q", pages, p.Replies[0].Number, p.Error.Message)
			}
			after, more, seen = p.After, p.More, seen+len(p.Replies)
		}
		if seen != 40 {
			t.Errorf("%d replies on %d pages", seen, pages)
		}
		f.wantEvents(f.follow(d.Links.Events, "Last-Event-ID: 58"), "retry status partial59 partial60 outcome61 end")
		f.wantEvents(f.follow(d.Links.Events, "Last-Event-ID: 18"), "retry status reset partial21 partial22")
	})
}

// TestMinimalEverywhere: no reply is kept of a scatter, of its legs, in the stream;
// a call that waits learns the outcome, and a reply too large to be kept is no failure.
func TestMinimalEverywhere(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.scatter("/v1/scatter?services=echo,small", "x", "Prefer: return=minimal")
		for _, service := range []string{"echo", "small"} {
			f.send(f.claimOf(service), text("final", "secret of "+service))
		}
		f.wantEvents(f.follow(d.Links.Events), "retry status partial1 partial2 outcome3 end")
		done := f.get(d.Links.Self)
		if s := done.status(t); s.Status != "succeeded" || s.Scatter.Succeeded != 2 || s.Reply.StatusCode != 0 {
			t.Errorf("the scatter is %s", done.body)
		}
		if a := f.get(d.Links.Reply); a.StatusCode != http.StatusNoContent {
			t.Errorf("its reply is %d %s", a.StatusCode, a.body)
		}
		if a := f.get(d.Links.Self + "/replies"); strings.Contains(string(a.body), "secret") || len(a.page(t).Replies) != 2 {
			t.Errorf("its replies are %s", a.body)
		}
		for _, key := range f.mini.Keys() {
			if strings.Contains(key, ":request:") && f.mini.HGet(key, "reply") != "" {
				t.Errorf("%s has a reply", key)
			}
		}
		form := f.scatter("/v1/scatter", `{"services":["echo","small"],"return":"minimal"}`)
		f.post("/v1/scatter", `{"services":["echo","small"],"return":"nothing"}`).problem(t, "invalid-option")
		if r := f.record(form.CorrelationID); !r.Minimal {
			t.Errorf("the form makes %+v", r)
		}
		f.post(form.Links.Cancel, "")

		f.echoes()
		a := f.post("/v1/services/echo/requests", "x", "Prefer: return=minimal, wait=5")
		if s := a.status(t); a.StatusCode != http.StatusAccepted || s.Status != "succeeded" || a.Header.Get("Preference-Applied") != "wait=5, return=minimal" {
			t.Errorf("who waits gets %d %v %s", a.StatusCode, a.Header, a.body)
		}
		large := strings.Repeat("x", 17<<20)
		for header, want := range map[string]api.StatusStatus{"Prefer: return=minimal": "succeeded", "X-None: 1": "failed"} {
			d := f.submit("x", header)
			f.echo(func(r *broker.WorkerReply) { r.Body = []byte(large) })
			if s := f.get(d.Links.Self).status(t); s.Status != want {
				t.Errorf("%s and a large reply: %s %+v", header, s.Status, s.Error)
			}
		}
	})
}
