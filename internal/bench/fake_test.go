package bench

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/coatcheck/coatcheck/api"
)

// fake is a gateway with a worker that gives back what it gets, and with the
// defects that a test plants.
type fake struct {
	t *testing.T

	submit func(n int, id string) (status int, newID string) // of the n-th submit; nil answers 202
	polls  []string                                          // statuses before the outcome, one a poll
	reply  func(n int, body []byte) (reply []byte, found bool)
	frames func(n int, id, outcome string) string // of its stream; nil: a status, and the outcome with the number 1
	again  int                                    // how often each callback comes once more
	large  bool                                   // replies do not fit into documents
	as     string                                 // encoding of replies in documents; "" is json

	mu       sync.Mutex // guards the rest
	bodies   map[string][]byte
	numbers  map[string]int
	polled   map[string]int
	after    []string // Last-Event-IDs that streams began with
	callback http.Client
}

func start(t *testing.T, f *fake) string {
	f.t, f.bodies, f.numbers, f.polled = t, map[string][]byte{}, map[string]int{}, map[string]int{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/services/{service}/requests", f.take)
	mux.HandleFunc("GET /v1/requests/{id}", f.status)
	mux.HandleFunc("GET /v1/requests/{id}/reply", f.raw)
	mux.HandleFunc("GET /v1/requests/{id}/events", f.events)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func (f *fake) take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || !json.Valid(body) {
		f.t.Errorf("body %q, %v", body, err)
	}
	f.mu.Lock()
	n := len(f.numbers)
	id := fmt.Sprintf("00000000-0000-8000-8000-%012d", n)
	status := http.StatusAccepted
	f.numbers[id], f.bodies[id] = n, body
	if f.submit != nil {
		status, id = f.submit(n, id)
		f.bodies[id] = body
	}
	f.mu.Unlock()
	if status != http.StatusAccepted {
		p, _ := api.ProblemNamed("unknown-service")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(p.New("no such service"))
		return
	}
	if url := r.Header.Get(api.HeaderCallbackURL); url != "" {
		f.call(url, id) // a callback may come before its 202
	}
	w.Header().Set(api.HeaderCorrelationID, id)
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"correlation_id":%q,"status":"queued","attempt":1}`, id)
}

func (f *fake) call(url, id string) {
	document, found := f.outcome(id)
	for range f.again + 1 {
		if !found {
			return
		}
		r, _ := http.NewRequest(http.MethodPost, url, strings.NewReader(`{"type":"request.succeeded","data":`+document+"}"))
		r.Header.Set(api.HeaderCorrelationID, id)
		if answer, err := f.callback.Do(r); err == nil {
			answer.Body.Close()
		}
	}
}

// outcome is the document of a request that has one.
func (f *fake) outcome(id string) (document string, found bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	reply, found := f.bodies[id], true
	if f.reply != nil {
		reply, found = f.reply(f.numbers[id], reply)
	}
	body := `"body":` + string(reply)
	switch f.as {
	case "text":
		body = fmt.Sprintf(`"encoding":"text","body":%q`, reply)
	case "base64":
		body = fmt.Sprintf(`"encoding":"base64","body":%q`, base64.StdEncoding.EncodeToString(reply))
	}
	if f.large {
		body = fmt.Sprintf(`"size":%d`, len(reply))
	}
	return fmt.Sprintf(`{"correlation_id":%q,"status":"succeeded","attempt":1,"links":{"reply":"/"},"reply":{"content_type":"application/json",%s}}`, id, body), found
}

func (f *fake) status(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	document, found := f.outcome(id)
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.polled[id]
	f.polled[id]++
	switch {
	case before < len(f.polls):
		fmt.Fprintf(w, `{"correlation_id":%q,"status":%q,"attempt":1}`, id, f.polls[before])
	case !found:
		fmt.Fprintf(w, `{"correlation_id":%q,"status":"queued","attempt":1}`, id)
	default:
		io.WriteString(w, document)
	}
}

func (f *fake) raw(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Write(f.bodies[r.PathValue("id")])
}

func (f *fake) events(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	document, found := f.outcome(id)
	f.mu.Lock()
	n := f.numbers[id]
	if after := r.Header.Get(api.HeaderLastEventID); after != "" {
		f.after = append(f.after, after)
	}
	f.mu.Unlock()
	frames := fmt.Sprintf("event: status\ndata: {\"correlation_id\":%q,\"status\":\"queued\"}\n\n", id)
	if found {
		frames += frame("outcome", 1, document)
	}
	if f.frames != nil {
		frames = f.frames(n, id, document)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	io.WriteString(w, frames)
	http.NewResponseController(w).Flush()
	if !found {
		<-r.Context().Done()
	}
}

func frame(event string, id int, data string) string {
	return fmt.Sprintf("event: %s\nid: %d\ndata: %s\n\n", event, id, data)
}

// other is the body of another request.
func other(body []byte) []byte { return bytes.Replace(body, []byte(`"n":"0`), []byte(`"n":"9`), 1) }
