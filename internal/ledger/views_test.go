package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/api/webhook"
)

const (
	secret       = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	refuses      = 50               // of so many callbacks the receiver refuses one
	intentsAgain = 60 * time.Second // until those of a killed gateway have come, after ten seconds, and are tried again
)

// web keeps a connection for each of many who call at once.
var web = func() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 2 * auditors
	return &http.Client{Transport: transport}
}()

// get reads a page of a gateway as its bytes.
func get(ctx context.Context, url string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := web.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, raw)
	}
	return string(raw), err
}

// outcomeIn is the document of the last event of a stream.
func outcomeIn(stream string) string {
	_, last, found := strings.Cut(stream, "event: outcome\n")
	if !found || strings.Count(stream, "event: outcome\n") != 1 {
		return "no single outcome: " + stream
	}
	_, data, _ := strings.Cut(last, "data: ")
	return strings.TrimSuffix(data, "\n\n")
}

// ended waits for the outcome. Polls of every gateway and the event stream of one
// show the same bytes.
func (a *audit) ended(ctx context.Context, id string, want api.StatusStatus) (s api.Status) {
	s, err := a.site.client(len(id)).Wait(ctx, id)
	if err != nil || s.Status != want {
		a.t.Errorf("%s: %s, %v; want %s", id, s.Status, err, want)
		return s
	}
	path := "/v1/requests/" + id
	stream, err := get(ctx, a.site.servers[0].URL+path+"/events")
	if err != nil {
		a.t.Errorf("%s: events: %v", id, err)
		return s
	}
	said := outcomeIn(stream)
	for _, g := range a.site.servers {
		polled, err := get(ctx, g.URL+path)
		if err != nil || strings.TrimSpace(polled) != said {
			a.t.Errorf("%s: %v; polled\n%s\nstreamed\n%s", id, err, polled, said)
		}
	}
	a.site.receiver.expect(id, said)
	return s
}

// events are those of a request, numbered without a gap; the last is its outcome.
func (a *audit) events(ctx context.Context, id string) (all []client.Event) {
	for e, err := range a.site.client(1).Events(ctx, id) {
		if err != nil && !errors.Is(err, context.Canceled) {
			a.t.Errorf("%s: events: %v", id, err)
		}
		if e.Kind == "progress" || e.Kind == "partial" || e.Kind == "outcome" {
			all = append(all, e)
		}
	}
	for i, e := range all {
		number := e.Event.Number
		if e.Kind == "outcome" {
			number = e.Status.Events
		}
		if number != i+1 || (e.Kind == "outcome") != (i == len(all)-1) {
			a.t.Errorf("%s: event %d of %d is %s %d", id, i, len(all), e.Kind, number)
		}
	}
	return all
}

// follow reads the events of a request live, while everything is under fire: no
// number is missing or twice, and no state comes after a later one.
func (a *audit) follow(ctx context.Context, n int, id string) {
	last, at := 0, [2]int{}
	for try := 0; ctx.Err() == nil; try++ {
		for e, err := range a.site.client(n+try).Events(ctx, id) {
			if err != nil {
				break // its gateway is gone for longer than a client tries: the next one
			}
			number, s := e.Event.Number, e.Status
			switch e.Kind {
			case "status":
				now := [2]int{s.Attempt, map[api.StatusStatus]int{api.Scheduled: 1, api.Queued: 2, api.Running: 3}[s.Status]}
				if now[1] > 0 && (now[0] < at[0] || now[0] == at[0] && now[1] < at[1]) {
					a.t.Errorf("%s: was at %v, and then at %v", id, at, now)
				}
				at = now
				continue
			case "outcome":
				number = s.Events
			}
			if number <= last && try > 0 {
				continue // another stream begins at the start
			}
			if number != last+1 {
				a.t.Errorf("%s: event %d comes after %d", id, number, last)
			}
			last = number
			if e.Kind == "outcome" {
				a.followed.Add(1)
				return
			}
		}
	}
}

// receiver takes callbacks.
type receiver struct {
	url string

	mu     sync.Mutex // guards the rest
	count  int
	wrong  []string
	said   map[string]map[string]bool // by ID: the documents that came
	wanted map[string]string          // by ID: the document that a poll shows
}

func listen(t *testing.T) *receiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{url: "http://" + l.Addr().String(), said: map[string]map[string]bool{}, wanted: map[string]string{}}
	server := &http.Server{Handler: r}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, call *http.Request) {
	body, err := io.ReadAll(call.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count++; err != nil || r.count%refuses == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var message struct{ Data json.RawMessage }
	var s api.Status
	err = errors.Join(webhook.Verify(call.Header, body, secret), json.Unmarshal(body, &message), json.Unmarshal(message.Data, &s))
	if err != nil {
		r.wrong = append(r.wrong, fmt.Sprintf("%v: %s", err, body))
	}
	if r.said[s.CorrelationID] == nil {
		r.said[s.CorrelationID] = map[string]bool{}
	}
	r.said[s.CorrelationID][string(message.Data)] = true
}

func (r *receiver) expect(id, document string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.wanted[id]; !ok { // what is done to it later changes it: a redrive
		r.wanted[id] = document
	}
}

// missing is how many have not come.
func (r *receiver) missing(a *audit) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range a.known {
		if r.wanted[id] != "" && len(r.said[id]) == 0 {
			n++
		}
	}
	return n
}

// await waits until all have come.
func (r *receiver) await(ctx context.Context, a *audit) {
	ctx, stop := context.WithTimeout(ctx, intentsAgain)
	defer stop()
	for r.missing(a) > 0 {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			a.t.Errorf("%d callbacks never came", r.missing(a))
			return
		}
	}
}

// called is how many callbacks came of what was submitted.
func (s *site) called(a *audit) int { return len(s.receiver.wanted) - s.receiver.missing(a) }

// compareCallbacks wants each, however often it came, to have the bytes that a
// poll has, and to be of a request that somebody was told of: one whose acceptance was
// unknown was not accepted twice.
func (a *audit) compareCallbacks() {
	r := a.site.receiver
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, wrong := range r.wrong {
		a.t.Errorf("a callback is wrong: %s", wrong)
	}
	for id, documents := range r.said {
		if !a.ours[id] {
			a.t.Errorf("%s was called back, and nobody was told that it was accepted", id)
		}
		for document := range documents {
			if want, ok := r.wanted[id]; ok && document != want {
				a.t.Errorf("%s: called back\n%s\npolled\n%s", id, document, want)
			}
		}
	}
}
