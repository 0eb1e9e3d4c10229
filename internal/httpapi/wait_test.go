package httpapi_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// timed is an answer, and how long it took.
type timed struct {
	answer
	took time.Duration
}

// later makes a call that a test goes on beside.
func (f *front) later(path string, headers ...string) <-chan timed {
	f.t.Helper()
	out, begun := make(chan timed, 1), time.Now()
	go func() {
		a := f.get(path, headers...)
		out <- timed{a, time.Since(begun)}
	}()
	settled()
	return out
}

// TestWaitThatEnds brings the status, never an empty answer, after exactly as
// long as the client asked for, a minute at most.
func TestWaitThatEnds(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		tag := f.get(d.Links.Self).Header.Get("ETag")
		for _, c := range []struct {
			query, prefer, tag, applied string
			took                        time.Duration
		}{
			{"?wait=2s", "", "", "", 2 * time.Second},
			{"?wait=1500ms", "", "", "", 1500 * time.Millisecond},
			{"?wait=3", "", "", "", 3 * time.Second},
			{"?wait=0", "", "", "", 0},
			{"", "wait=2", "", "wait=2", 2 * time.Second},
			{"", "respond-async, wait=2", "", "wait=2", 2 * time.Second},
			{"?wait=1s", "wait=20", "", "", time.Second}, // the address counts before the wish
			{"?wait=10m", "", "", "", time.Minute},
			{"?wait=9223372036", "", "", "", time.Minute},
			{"", "wait=600", "", "wait=60", time.Minute},
			{"", "wait=soon", "", "", 0},
			{"?wait=2s", "", tag, "", 2 * time.Second}, // known already, and yet no 304
			{"?wait=2s", "", "*", "", 2 * time.Second},
			{"?wait=2s", "", `W/"queued.1.7"`, "", 0}, // not what stands
		} {
			var headers []string
			if c.prefer != "" {
				headers = append(headers, "Prefer: "+c.prefer)
			}
			if c.tag != "" {
				headers = append(headers, "If-None-Match: "+c.tag)
			}
			begun := time.Now()
			a := f.get(d.Links.Self+c.query, headers...)
			if took := time.Since(begun); a.StatusCode != 200 || a.status(t).Status != api.Queued || took != c.took || a.Header.Get("Preference-Applied") != c.applied {
				t.Errorf("%+v: %d after %v, applied %q", c, a.StatusCode, took, a.Header.Get("Preference-Applied"))
			}
			if a.Header.Get("ETag") != tag || a.Header.Get("Retry-After") == "" {
				t.Errorf("%+v: %v", c, a.Header)
			}
		}
		if a := f.get(d.Links.Self, "If-None-Match: "+tag); a.StatusCode != 304 || len(a.body) != 0 || a.Header.Get("ETag") != tag {
			t.Errorf("unchanged: %d %v", a.StatusCode, a.Header)
		}
		f.nobody()
	})
}

// TestConditionalPoll compares weakly, as RFC 9110 has it for GET, and tells of
// every change that counts.
func TestConditionalPoll(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		tag := f.get(d.Links.Self).Header.Get("ETag")
		for known, want := range map[string]int{
			tag: 304, tag[2:]: 304, `"x", ` + tag: 304, tag + `,"x"`: 304, "*": 304,
			`"x"`: 200, `W/"queued"`: 200, "queued.1.0": 200, "": 200,
		} {
			a := f.get(d.Links.Self, "If-None-Match: "+known)
			if a.StatusCode != want || (len(a.body) == 0) != (want == 304) || a.Header.Get("ETag") != tag || a.Header.Get("X-Correlation-ID") != d.CorrelationID {
				t.Errorf("%q: %d %v", known, a.StatusCode, a.Header)
			}
		}
		work := f.claim()
		seen := map[string]bool{tag: true}
		for _, step := range []func(){
			func() { f.send(work, broker.WorkerReply{Type: "retry", Delay: time.Millisecond}) }, // queued again
			func() { work = f.claim() },
			func() { f.send(work, progress("1")) },
			func() { f.send(work, progress("2")) },
			func() { f.send(work, broker.WorkerReply{Type: "final"}) },
		} {
			step()
			a := f.get(d.Links.Self, "If-None-Match: "+tag)
			if tag = a.Header.Get("ETag"); a.StatusCode != 200 || seen[tag] {
				t.Errorf("%s was seen before: %s", tag, a.body)
			}
			seen[tag] = true
			time.Sleep(2 * time.Second)
			if again := f.get(d.Links.Self, "If-None-Match: "+tag); again.StatusCode != 304 {
				t.Errorf("nothing happened since %s: %d", tag, again.StatusCode)
			}
		}
	})
}

// TestWaitIsWoken by the outcome, or by any change from what the client knows.
func TestWaitIsWoken(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		tag := f.get(d.Links.Self).Header.Get("ETag")
		outcome, change := f.later(d.Links.Self+"?wait=50s"), f.later(d.Links.Self+"?wait=50s", "If-None-Match: "+tag)
		if waiting, _ := f.server.Open(); waiting != 2 {
			t.Errorf("%d wait", waiting)
		}
		work := f.claim()
		time.Sleep(time.Second)
		f.send(work, progress("1"))
		got := <-change
		if s := got.status(t); s.Status != api.Running || s.Events != 1 || got.took > 7*time.Second {
			t.Errorf("the change came after %v: %s", got.took, got.body)
		}
		again := f.later(d.Links.Self+"?wait=50s", "If-None-Match: "+got.Header.Get("ETag"))
		time.Sleep(10 * time.Second)
		sent := time.Now()
		f.send(work, broker.WorkerReply{Type: "final", Body: []byte("hi")})
		for _, waiting := range []<-chan timed{outcome, again} {
			got := <-waiting
			if s := got.status(t); s.Status != api.Succeeded || string(s.Reply.Body) != `"hi"` || got.Header.Get("Retry-After") != "" {
				t.Errorf("%s", got.body)
			}
		}
		if took := time.Since(sent); took > 100*time.Millisecond {
			t.Errorf("woken after %v", took)
		}
		begun := time.Now()
		if a := f.get(d.Links.Self+"?wait=50s", "If-None-Match: "+f.get(d.Links.Self).Header.Get("ETag")); a.StatusCode != 200 || time.Since(begun) > time.Second {
			t.Errorf("a wait for what is over: %d after %v", a.StatusCode, time.Since(begun))
		}
		f.nobody()
	})
}

// TestReleaseIsHeardOf by who waits for it, or follows, although its line is what it comes
// into. That it leaves the line changes nothing that either of them shows: it is in the
// next document.
func TestReleaseIsHeardOf(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		if err := f.broker.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		d := f.submit("x", "Coatcheck-Delay: 23s")
		due := time.Time(d.CreatedAt).Add(23 * time.Second)
		tag := f.get(d.Links.Self).Header.Get("ETag")
		stream, change := f.follow(d.Links.Events), f.later(d.Links.Self+"?wait=50s", "If-None-Match: "+tag)
		f.wantEvents(stream, "retry status")
		if got := <-change; got.status(t).Status != api.Queued || time.Since(due) > 300*time.Millisecond {
			t.Errorf("%v after its delay it is %s", time.Since(due), got.body)
		}
		if got := stream.next(); !strings.Contains(got.text, `"status":"queued"`) || got.at.Sub(due) > 300*time.Millisecond {
			t.Errorf("%v after its delay a stream says: %s", got.at.Sub(due), got.text)
		}
		outcome := f.later(d.Links.Self + "?wait=50s")
		if err := f.broker.Resume(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		settled()
		resumed := time.Now()
		f.send(f.claim(), broker.WorkerReply{Type: "final", Body: []byte("hi")})
		got := <-outcome
		if s := got.status(t); s.Status != api.Succeeded || time.Time(s.QueuedAt).Sub(resumed).Abs() > time.Second {
			t.Errorf("resumed at %v: %s", resumed, got.body)
		}
		f.wantEvents(stream, "outcome1 end")
	})
}

// TestWaitersThatLeave hold nothing.
func TestWaitersThatLeave(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		for range 20 {
			conn := f.dial()
			fmt.Fprintf(conn, "GET %s?wait=60s HTTP/1.1\r\nHost: gateway\r\n\r\n", d.Links.Self)
		}
		conn := f.dial()
		io.WriteString(conn, head+"Prefer: wait=60\r\nContent-Length: 1\r\n\r\nx")
		settled()
		if waiting, _ := f.server.Open(); waiting != 21 {
			t.Errorf("%d wait", waiting)
		}
		conn.Close()
		settled()
		if waiting, _ := f.server.Open(); waiting != 20 {
			t.Errorf("%d wait", waiting)
		}
		f.pipes.hangUp()
		f.nobody()
	})
}

// TestWaitOutlivesRedis: one that rests already goes on, a new one and a poll
// are told that nothing can be told.
func TestWaitOutlivesRedis(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		over, rests := f.later(d.Links.Self+"?wait=10s"), f.later(d.Links.Self+"?wait=60s")
		f.redis(false)
		for _, path := range []string{d.Links.Self, d.Links.Self + "?wait=5s", d.Links.Reply, "/v1/services/echo", "/readyz"} {
			begun := time.Now()
			a := f.get(path)
			a.problem(t, "unavailable")
			if took := time.Since(begun); took > time.Second {
				t.Errorf("%s took %v", path, took)
			}
		}
		begun := time.Now()
		f.post(echoRequests, "y").problem(t, "unavailable")
		if took := time.Since(begun); took > time.Second {
			t.Errorf("a submit is refused after %v", took)
		}
		f.get("/v1/requests/x").problem(t, "not-found") // that can be told without Redis
		if got := <-over; got.StatusCode != 200 || got.status(t).Status != api.Queued {
			t.Errorf("the wait ended: %d %s", got.StatusCode, got.body)
		}
		f.redis(true)
		f.echo()
		if got := <-rests; got.StatusCode != 200 || got.status(t).Status != api.Succeeded {
			t.Errorf("the wait that went on: %d %s", got.StatusCode, got.body)
		}
		f.accepted(0)
	})
}

// TestDrainEndsWaits with what is.
func TestDrainEndsWaits(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		waits := f.later(f.submit("x").Links.Self + "?wait=60s")
		f.server.Drain()
		f.hub.Drain()
		if got := <-waits; got.StatusCode != 200 || got.status(t).Status != api.Queued || got.took > time.Second {
			t.Errorf("%d after %v", got.StatusCode, got.took)
		}
		f.nobody()
	})
}

// TestDeletedMeanwhile: who waits for a request that its client forgets learns that it is
// gone, and not how it ended, since nobody else is told of that any more.
func TestDeletedMeanwhile(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for _, claimed := range []bool{false, true} {
			d := f.submit("x")
			if claimed {
				f.one()
			}
			waits := []<-chan timed{f.later(d.Links.Self + "?wait=30s"), f.later(d.Links.Self, "Prefer: wait=30")}
			stream := f.follow(d.Links.Events)
			settled()
			if a := f.call("DELETE", d.Links.Self, nil); a.StatusCode != 204 {
				t.Fatalf("delete: %d %s", a.StatusCode, a.body)
			}
			for _, waited := range waits {
				(<-waited).problem(t, "gone")
			}
			for one := range stream.frames {
				if strings.Contains(one.text, "canceled") {
					t.Errorf("the stream told %q", one.text)
				}
			}
		}
		f.nobody()
	})
}
