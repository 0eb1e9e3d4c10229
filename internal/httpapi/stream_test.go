package httpapi_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// reader is a client that follows a request.
type reader struct {
	f      *front
	frames chan frame // read sends, next receives, read closes at the end of the stream
	hangUp func()
}

// frame is what stands between two blank lines, and when it came.
type frame struct {
	text string
	at   time.Time
}

// follow opens a stream; headers are "Name: value".
func (f *front) follow(path string, headers ...string) *reader {
	f.t.Helper()
	ctx, stop := context.WithCancel(f.t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway"+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	response, err := f.client.Do(r) //nolint:bodyclose // by read
	if err != nil {
		f.t.Fatal(err)
	}
	if kind := response.Header.Get("Content-Type"); response.StatusCode != 200 || kind != "text/event-stream" || response.Header.Get("Cache-Control") != "no-store" {
		f.t.Fatalf("%s: %d %v", path, response.StatusCode, response.Header)
	}
	out := &reader{f: f, frames: make(chan frame, 2000), hangUp: stop}
	go out.read(response.Body)
	return out
}

func (r *reader) read(stream io.ReadCloser) {
	defer close(r.frames)
	defer stream.Close()
	var text strings.Builder
	for lines := bufio.NewReader(stream); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		text.WriteString(line)
		if line == "\n" {
			r.frames <- frame{text.String(), time.Now()}
			text.Reset()
		}
	}
}

// next is the next frame that isn't a heartbeat, "" at the end of the stream.
func (r *reader) next() frame {
	r.f.t.Helper()
	for {
		got := r.any()
		if !strings.HasPrefix(got.text, ":") {
			return got
		}
	}
}

func (r *reader) any() frame {
	r.f.t.Helper()
	select {
	case got, ok := <-r.frames:
		if !ok {
			return frame{"", time.Now()}
		}
		return got
	case <-time.After(5 * time.Minute):
		r.f.t.Fatal("the stream is silent")
		return frame{}
	}
}

// events are the next n frames in short: the event's name, and its number.
func (r *reader) events(n int) string {
	r.f.t.Helper()
	var out []string
	for range n {
		out = append(out, short(r.next().text))
	}
	return strings.Join(out, " ")
}

func short(frame string) string {
	if frame == "" {
		return "end"
	}
	name, id := "", ""
	for line := range strings.SplitSeq(frame, "\n") {
		switch field, value, _ := strings.Cut(line, ": "); field {
		case "event":
			name = value
		case "id":
			id = value
		case "retry":
			name = "retry"
		}
	}
	return name + id
}

func (f *front) wantEvents(r *reader, want string) {
	f.t.Helper()
	if got := r.events(len(strings.Fields(want))); got != want {
		f.t.Errorf("the stream has %q, want %q", got, want)
	}
}

func progress(text string) broker.WorkerReply {
	return broker.WorkerReply{Type: "progress", ContentType: "application/json", Body: []byte(text)}
}

// TestStreamGolden holds every byte of a stream from submit to outcome.
func TestStreamGolden(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		r := f.follow(d.Links.Events)
		synctest.Wait()
		work := f.claim()
		time.Sleep(time.Second)
		f.send(work, progress("{\n  \"percent\": 20\n}"))
		f.send(work, broker.WorkerReply{Type: "partial", ContentType: "text/plain", Body: []byte("one\r\ntwo\n\nevent: outcome\nid: 99\ndata: not\n\n")})
		f.send(work, broker.WorkerReply{Type: "partial", ContentType: "image/png", Body: []byte{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'}})
		f.send(work, broker.WorkerReply{Type: "progress"})
		time.Sleep(15 * time.Second) // a heartbeat
		f.send(work, broker.WorkerReply{Type: "final", ContentType: "application/json", Body: []byte(`{"a": "<é>"}`)})
		var all strings.Builder
		for got := r.any(); got.text != ""; got = r.any() {
			all.WriteString(got.text)
		}
		golden(t, "stream.golden", steady(all.String()))
	})
}

// TestResume: whoever comes back gets what it missed, by header or by query,
// and after the outcome nothing more.
func TestResume(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		work := f.claim()
		for range 3 {
			f.send(work, progress("1"))
		}
		for _, c := range []struct{ query, header, want string }{
			{"", "", "retry status progress1 progress2 progress3"},
			{"", "0", "retry status progress1 progress2 progress3"},
			{"", "2", "retry status progress3"},
			{"?last_event_id=2", "", "retry status progress3"},
			{"?last_event_id=1", "2", "retry status progress3"}, // an EventSource that reconnects: its URL is the old one
			{"?last_event_id=3", "", "retry status"},
		} {
			r := f.follow(d.Links.Events+c.query, "Last-Event-ID: "+c.header)
			f.wantEvents(r, c.want)
			settled()
			if len(r.frames) != 0 {
				t.Errorf("%q %q: more came: %s", c.query, c.header, r.next().text)
			}
			r.hangUp()
		}
		live := f.follow(d.Links.Events, "Last-Event-ID: 3")
		beyond := f.follow(d.Links.Events, "Last-Event-ID: 77") // a future that never was
		f.wantEvents(live, "retry status")
		f.wantEvents(beyond, "retry status")
		f.send(work, progress("4"))
		f.wantEvents(live, "progress4")
		f.wantEvents(beyond, "progress4")
		f.send(work, broker.WorkerReply{Type: "final"})
		f.wantEvents(live, "outcome5 end")
		for last, want := range map[string]string{"3": "retry status progress4 outcome5 end", "4": "retry status outcome5 end"} {
			f.wantEvents(f.follow(d.Links.Events, "Last-Event-ID: "+last), want)
		}
		for _, last := range []string{"5", "6", "999999999"} {
			if a := f.get(d.Links.Events, "Last-Event-ID: "+last); a.StatusCode != 204 || len(a.body) != 0 {
				t.Errorf("after %s: %d %s", last, a.StatusCode, a.body)
			}
		}
	})
}

// TestEventsComeAtOnce, in one piece and in order, also for two readers.
func TestEventsComeAtOnce(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		one, two := f.follow(d.Links.Events), f.follow(d.Links.Events)
		f.wantEvents(one, "retry status")
		f.wantEvents(two, "retry status")
		work := f.claim()
		for n := range 5 {
			sent := time.Now()
			if err := f.broker.Send(t.Context(), work, progress("1")); err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				f.wantEvents(one, "status") // it runs
				f.wantEvents(two, "status")
			}
			if got := one.next(); got.at.Sub(sent) > 10*time.Millisecond {
				t.Errorf("%s came after %v", short(got.text), got.at.Sub(sent))
			}
			two.next()
			time.Sleep(time.Second)
		}
		f.send(work, broker.WorkerReply{Type: "failed", Error: &broker.Error{Message: "no"}})
		f.wantEvents(one, "outcome6 end")
		f.wantEvents(two, "outcome6 end")
	})
}

func TestHeartbeats(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		r, begun := f.follow(f.submit("x", "Coatcheck-Timeout: 1h").Links.Events), time.Now()
		f.wantEvents(r, "retry status")
		for n := range 10 {
			got := r.any()
			if want := time.Duration(n+1) * 15 * time.Second; got.text != ": heartbeat\n\n" || got.at.Sub(begun) != want {
				t.Errorf("%q after %v, want a heartbeat after %v", got.text, got.at.Sub(begun), want)
			}
		}
	})
}

// TestCutHistory: a gap is announced.
func TestCutHistory(t *testing.T) {
	const kept = 1000
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		work := f.claim()
		for range kept + 5 {
			if err := f.broker.Send(t.Context(), work, progress("1")); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
		r := f.follow(d.Links.Events, "Last-Event-ID: 2")
		f.wantEvents(r, "retry status reset progress6 progress7")
		r.events(kept - 3)
		f.wantEvents(r, "progress1005")
		r.hangUp()
		f.wantEvents(f.follow(d.Links.Events, "Last-Event-ID: 5"), "retry status progress6") // just in time
	})
}
