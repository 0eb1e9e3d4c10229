package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

// The frames of a request with three progress events.
func frame(event string, number int, v any) string {
	data, _ := json.Marshal(v)
	if number == 0 {
		return fmt.Sprintf("event: %s\ndata: %s\n\n", event, data)
	}
	return fmt.Sprintf("event: %s\nid: %d\ndata: %s\n\n", event, number, data)
}

func progress(n int) string {
	return frame("progress", n, api.Event{Number: n, Type: "progress", Body: api.Raw(`{"percent":1}`)})
}

func outcome(events int) string {
	s := api.Status{CorrelationID: id, Status: api.Succeeded, Events: events}
	return frame("outcome", events, s)
}

func snapshot(s api.StatusStatus) string {
	return frame("status", 0, api.Status{CorrelationID: id, Status: s, Attempt: 1})
}

// stream writes text and then ends: orderly, or by cutting the connection.
func stream(text string, cut bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "retry: 1000\n\n"+text)
		http.NewResponseController(w).Flush()
		if cut {
			panic(http.ErrAbortHandler)
		}
	}
}

// follow reads all events, as "kind number".
func follow(ctx context.Context, c *client.Client) (seen []string, err error) {
	for e, err := range c.Events(ctx, id) {
		if err != nil {
			return seen, err
		}
		switch e.Kind {
		case "status":
			seen = append(seen, string(e.Status.Status))
		case "reset":
			seen = append(seen, fmt.Sprintf("reset %d-%d", e.Reset.First, e.Reset.Last))
		case "outcome":
			seen = append(seen, fmt.Sprintf("outcome %d", e.Status.Events))
		default:
			seen = append(seen, fmt.Sprintf("%s %d", e.Kind, e.Event.Number))
		}
	}
	return seen, nil
}

func TestEventsResume(t *testing.T) {
	begin := snapshot(api.Running) + progress(1)
	end := snapshot(api.Running) + progress(3) + outcome(4)
	all := []string{"running", "progress 1", "progress 2", "progress 3", "outcome 4"}
	cuts := map[string]int{"in the event's name": 9, "in the number": 20, "in the data": 40, "before the blank line": len(progress(2)) - 1}
	for name, at := range cuts {
		t.Run("cut "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{script: []http.HandlerFunc{
					stream(begin+progress(2)[:at], true), stream(snapshot(api.Running)+progress(2)+": heartbeat\n\n", false),
					hangUp, problem("draining", 3), stream(end, false),
				}}
				seen, err := follow(t.Context(), start(t, f))
				if diff := cmp.Diff(all, seen); diff != "" || err != nil {
					t.Errorf("%v %s", err, diff)
				}
				var asked []string
				for _, call := range f.asked() {
					asked = append(asked, call.header.Get(api.HeaderLastEventID))
				}
				if diff := cmp.Diff([]string{"", "1", "2", "2", "2"}, asked); diff != "" {
					t.Errorf("Last-Event-ID: %s", diff)
				}
				if calls := f.asked(); calls[4].at-calls[3].at < 3*time.Second {
					t.Errorf("Retry-After was not honoured: %v", calls[4].at-calls[3].at)
				}
			})
		})
	}
}

func TestEventsTakesEachNumberOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{script: []http.HandlerFunc{
			stream(snapshot(api.Queued)+snapshot(api.Running)+progress(1), true),
			stream(snapshot(api.Running)+progress(1)+"event: later\ndata: {}\n\n"+progress(2)+progress(2)+outcome(3)+outcome(3), false),
		}}
		seen, err := follow(t.Context(), start(t, f))
		if diff := cmp.Diff([]string{"queued", "running", "progress 1", "progress 2", "outcome 3"}, seen); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
	})
}

func TestEventsTellOfCutHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{script: []http.HandlerFunc{
			stream(snapshot(api.Running)+frame("reset", 0, api.Reset{First: 7, Last: 9}), true),
			stream(snapshot(api.Running)+progress(7)+outcome(8), false),
		}}
		seen, err := follow(t.Context(), start(t, f))
		if diff := cmp.Diff([]string{"running", "reset 7-9", "progress 7", "outcome 8"}, seen); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
		if after := f.asked()[1].header.Get(api.HeaderLastEventID); after != "6" {
			t.Errorf("went on after %q", after)
		}
	})
}

func TestEventsEnd(t *testing.T) {
	gone := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	for name, c := range map[string]struct {
		script []http.HandlerFunc
		want   string // of the error
		calls  int
	}{
		"nothing after the outcome": {[]http.HandlerFunc{stream(snapshot(api.Running)+progress(1), true), gone}, "", 2},
		"always cut at once":        {[]http.HandlerFunc{stream(snapshot(api.Running), true)}, "read the events", 6},
		"always over at once":       {[]http.HandlerFunc{stream("", false)}, "the stream ended before the outcome", 6},
		"unavailable for too long":  {[]http.HandlerFunc{problem("unavailable", 1)}, "Redis cannot be asked now", 6},
		"no stream":                 {[]http.HandlerFunc{plain(200, "<h1>It works!</h1>")}, "no event stream", 1},
		"no JSON":                   {[]http.HandlerFunc{stream("event: progress\nid: 1\ndata: {\n\n", false)}, "read a progress event", 1},
		"an event without an end":   {[]http.HandlerFunc{stream("data: "+strings.Repeat("x", 2<<20), false)}, "larger than this client takes", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{script: c.script}
				_, err := follow(t.Context(), start(t, f))
				if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				if n := len(f.asked()); n != c.calls {
					t.Errorf("%d connections, want %d", n, c.calls)
				}
			})
		})
	}
}

// A long request says nothing for a while, and proxies cut what says nothing:
// that is no failure, however often it happens.
func TestEventsOutlivesImpatientProxies(t *testing.T) {
	idle := func(w http.ResponseWriter, r *http.Request) {
		stream(snapshot(api.Running), false)(w, r)
		time.Sleep(time.Minute / 2) // of the bubble
		panic(http.ErrAbortHandler)
	}
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		for range 20 {
			f.script = append(f.script, idle)
		}
		f.script = append(f.script, stream(outcome(1), false))
		seen, err := follow(t.Context(), start(t, f))
		if diff := cmp.Diff([]string{"running", "outcome 1"}, seen); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
	})
}

// A half-open connection says nothing for ever.
func TestEventsGivesUpASilentConnection(t *testing.T) {
	silent := func(w http.ResponseWriter, r *http.Request) {
		stream(snapshot(api.Running), false)(w, r)
		<-r.Context().Done()
	}
	mute := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	synctest.Test(t, func(t *testing.T) {
		f := &fake{script: []http.HandlerFunc{silent, mute, stream(outcome(1), false)}}
		seen, err := follow(t.Context(), start(t, f))
		if diff := cmp.Diff([]string{"running", "outcome 1"}, seen); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
		for n, call := range f.asked() {
			if least := time.Duration(n) * 45 * time.Second; call.at < least || call.at > least+2*time.Second {
				t.Errorf("connection %d after %v", n, call.at)
			}
		}
	})
}

func TestEventsEndWithTheReader(t *testing.T) {
	open := func(w http.ResponseWriter, r *http.Request) {
		stream(snapshot(api.Running)+progress(1), false)(w, r)
		<-r.Context().Done()
	}
	synctest.Test(t, func(t *testing.T) {
		f := &fake{script: []http.HandlerFunc{open}}
		c := start(t, f)
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if _, err := follow(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		for range c.Events(t.Context(), id) {
			break // the reader leaves: the connection goes with it, or the bubble never ends
		}
		if n := len(f.asked()); n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}
