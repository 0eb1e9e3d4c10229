package httpapi_test

import (
	"context"
	"encoding/json"
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
		f.send(work, broker.WorkerReply{Type: "final"})
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
