package bench

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/api"
)

const (
	requests = 20
	noReply  = 300 * time.Millisecond // after which a reply is lost
)

func options(url string, via Via) Options {
	return Options{
		URL: url, Service: "echo", Via: via, Body: 200, Clients: 4, Requests: requests, Duration: time.Minute,
		PollEvery: time.Millisecond, Timeout: noReply, Receiver: Receiver{Unsigned: true},
	}
}

func all() Counts { return Counts{Sent: requests, Accepted: requests, Answered: requests} }

func TestRunSeesEveryReply(t *testing.T) {
	for _, via := range Ways {
		for _, worker := range []*fake{{}, {large: true}, {as: "text"}, {as: "base64"}} {
			o := options(start(t, worker), via)
			o.Timeout = time.Minute // nothing is lost here, however slow the machine is
			r, err := Run(t.Context(), o)
			want := all()
			if via == Submit {
				want.Answered = 0
			}
			if diff := cmp.Diff(want, r.Counts); diff != "" || err != nil {
				t.Errorf("%s, large %v, as %q: %v\n%s", via, worker.large, worker.as, err, diff)
			}
			if r.Requests != requests || r.Rate <= 0 || r.Accept.P50 <= 0 || r.main().Max < r.main().P50 {
				t.Errorf("%s: %+v", via, r)
			}
		}
	}
}

// TestRunFindsWhatIsPlanted has one defect in each gateway.
func TestRunFindsWhatIsPlanted(t *testing.T) {
	first := func(n int, body []byte) bool { return n == 0 }
	lost := func(n int, body []byte) ([]byte, bool) { return body, !first(n, body) }
	wrong := func(n int, body []byte) ([]byte, bool) {
		if first(n, body) {
			return other(body), true
		}
		return body, true
	}
	onStream := func(frames func(id, outcome string) string) func(int, string, string) string {
		return func(n int, id, outcome string) string {
			if n == 0 {
				return frames(id, outcome)
			}
			return frame("outcome", 1, outcome)
		}
	}
	for _, c := range []struct {
		name string
		via  Via
		fake *fake
		want func(*Counts)
	}{
		{"lost to a poll", Poll, &fake{reply: lost}, func(c *Counts) { c.Lost, c.Answered = 1, requests-1 }},
		{"lost to a long-poll", Wait, &fake{reply: lost}, func(c *Counts) { c.Lost, c.Answered = 1, requests-1 }},
		{"lost to a stream", SSE, &fake{reply: lost}, func(c *Counts) { c.Lost, c.Answered = 1, requests-1 }},
		{"a callback that does not come", Webhook, &fake{reply: lost}, func(c *Counts) { c.Lost, c.Answered = 1, requests-1 }},
		{"an ID given twice", Submit, &fake{submit: func(n int, id string) (int, string) {
			if n == 1 {
				id = strings.Replace(id, "000000000001", "000000000000", 1)
			}
			return http.StatusAccepted, id
		}}, func(c *Counts) { c.Doubled, c.Answered = 1, 0 }},
		{"an outcome that comes twice", SSE, &fake{frames: onStream(func(_, outcome string) string {
			return frame("outcome", 1, outcome) + frame("outcome", 2, outcome)
		})}, func(c *Counts) { c.Doubled = 1 }},
		{"callbacks that come twice", Webhook, &fake{again: 1}, func(c *Counts) { c.Doubled = requests }},
		{"wrong bytes in a poll", Poll, &fake{reply: wrong}, func(c *Counts) { c.Wrong = 1 }},
		{"wrong bytes in a stream", SSE, &fake{reply: wrong}, func(c *Counts) { c.Wrong = 1 }},
		{"wrong bytes in a callback", Webhook, &fake{reply: wrong}, func(c *Counts) { c.Wrong = 1 }},
		{"another's outcome", SSE, &fake{frames: onStream(func(id, outcome string) string {
			return frame("outcome", 1, strings.Replace(outcome, id, "another", 1))
		})}, func(c *Counts) { c.Wrong = 1 }},
		{"a status that goes back", Poll, &fake{polls: []string{"running", "queued"}}, func(c *Counts) { c.OutOfOrder = requests }},
		{"numbers that fall", SSE, &fake{frames: onStream(func(_, outcome string) string {
			return frame("progress", 2, "{}") + frame("progress", 1, "{}") + frame("outcome", 3, outcome)
		})}, func(c *Counts) { c.OutOfOrder = 1 }},
		{"an event after the outcome", SSE, &fake{frames: onStream(func(_, outcome string) string {
			return frame("outcome", 2, outcome) + frame("progress", 3, "{}")
		})}, func(c *Counts) { c.OutOfOrder = 1 }},
		{"a failure", SSE, &fake{frames: onStream(func(_, outcome string) string {
			return frame("outcome", 1, strings.Replace(outcome, "succeeded", "failed", 1))
		})}, func(c *Counts) { c.Failed = 1 }},
		{"a refusal", Submit, &fake{submit: func(n int, id string) (int, string) {
			if n == 0 {
				return http.StatusTooManyRequests, id
			}
			return http.StatusAccepted, id
		}}, func(c *Counts) { c.Refused, c.Accepted, c.Answered = 1, requests-1, 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := options(start(t, c.fake), c.via)
			want := all()
			c.want(&want)
			if want.Lost == 0 {
				o.Timeout = time.Minute
			}
			r, err := Run(t.Context(), o)
			if diff := cmp.Diff(want, r.Counts); diff != "" || err != nil {
				t.Errorf("%v, first error %s\n%s", err, r.FirstError, diff)
			}
		})
	}
}

// Where all is lost, what was measured is how long that took, not how long it might have.
func TestAllIsLost(t *testing.T) {
	o := options(start(t, &fake{reply: func(_ int, body []byte) ([]byte, bool) { return body, false }}), Wait)
	o.Requests = 1
	if r, err := Run(t.Context(), o); err != nil || r.Lost != 1 || r.Seconds >= o.Duration.Seconds() {
		t.Errorf("%+v, %v", r, err)
	}
}

// A stream that breaks is resumed, as a client does.
func TestRunResumesStreams(t *testing.T) {
	var f fake
	f.frames = func(n int, _, outcome string) string {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.polled["stream"]++
		if f.polled["stream"] == 1 {
			return frame("progress", 1, "{}")
		}
		return frame("outcome", 2, outcome)
	}
	o := options(start(t, &f), SSE)
	o.Timeout = time.Minute
	r, err := Run(t.Context(), o)
	want := all()
	want.Errors = 1
	if diff := cmp.Diff(want, r.Counts); diff != "" || err != nil || !strings.Contains(r.FirstError, errBroken.Error()) {
		t.Errorf("%v, first error %s\n%s", err, r.FirstError, diff)
	}
	if diff := cmp.Diff([]string{"1"}, f.after); diff != "" {
		t.Errorf("resumed after\n%s", diff)
	}
}

func TestRunEndsWhereNothingIsTaken(t *testing.T) {
	url := start(t, &fake{submit: func(int, string) (int, string) { return http.StatusNotFound, "" }})
	_, err := Run(t.Context(), options(url, Submit))
	if p, ok := errors.AsType[api.Problem](err); !ok || !strings.HasSuffix(p.Type, "unknown-service") {
		t.Errorf("%v, want the gateway's problem", err)
	}
	if _, err := Run(t.Context(), options("http://127.0.0.1:1", Submit)); !errors.Is(err, ErrNoGateway) {
		t.Errorf("%v, want ErrNoGateway", err)
	}
}

// What is open when somebody interrupts a run is not lost.
func TestRunInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	o := options(start(t, &fake{reply: func(n int, body []byte) ([]byte, bool) {
		if n == 3 { // all clients have one open
			stop()
		}
		return body, false
	}}), SSE)
	o.Timeout = time.Minute
	r, err := Run(ctx, o)
	if !errors.Is(err, context.Canceled) || r.Lost != 0 || r.Unfinished == 0 || r.Answered != 0 || r.Errors != 0 {
		t.Errorf("%v: %+v", err, r.Counts)
	}
}

// Whoever comes late has been waited for since its scheduled instant.
func TestScheduleIsKept(t *testing.T) {
	r := newRun(Options{Rate: 1000, Requests: 5, Body: MinBody}, target{})
	r.begin = time.Now().Add(-time.Second) // all are late already
	r.until = r.begin.Add(time.Minute)
	r.ending = t.Context()
	go r.pace()
	for n := range 5 {
		due, ok := r.next()
		if want := r.begin.Add(time.Duration(n) * time.Millisecond); !ok || !due.Equal(want) {
			t.Errorf("request %d is due at %v, want %v", n, due, want)
		}
	}
	if _, ok := r.next(); ok {
		t.Error("there is a sixth")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"via":      func(o *Options) { o.Via = "pigeon" },
		"body":     func(o *Options) { o.Body = MinBody - 1 },
		"clients":  func(o *Options) { o.Clients = 0 },
		"rate":     func(o *Options) { o.Rate = -1 },
		"duration": func(o *Options) { o.Duration = 0 },
		"requests": func(o *Options) { o.Requests = -1 },
		"poll":     func(o *Options) { o.PollEvery = -1 },
		"service":  func(o *Options) { o.Service = "" },
		"url":      func(o *Options) { o.URL = "localhost:8080" },
		"secret":   func(o *Options) { o.Via, o.Receiver.Unsigned = Webhook, false },
		"listen":   func(o *Options) { o.Via, o.Receiver.Listen = Webhook, "nowhere" },
	} {
		o := options("http://127.0.0.1:1", Submit)
		change(&o)
		if _, err := Run(t.Context(), o); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v, want ErrOptions", name, err)
		}
	}
}
