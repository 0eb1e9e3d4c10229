// Package inbox is a receiver of callbacks to try things out with: `coatcheck
// dev` mounts it at /inbox/{name}, so that a newcomer sees a signed callback
// arrive without writing a server.
//
//	mux.Handle("/inbox/", inbox.New(secret))
//
//	POST   /inbox/me                      takes a callback, and verifies it
//	POST   /inbox/me?status=500&times=2   fails the first two times for each event
//	GET    /inbox/me                      lists every attempt, refused ones too, newest first
//	DELETE /inbox/me                      empties it
//
// It keeps everything in memory, within bounds, and asks nobody who they are:
// never mount it where others can reach it.
package inbox

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coatcheck/coatcheck/api/webhook"
)

// Bounds of what is kept; the oldest goes first.
const (
	maxBody     = 1 << 20  // bytes of one callback; a document with its inlined reply has a tenth
	maxKept     = 100      // attempts a name
	maxNames    = 100      // names
	maxBytes    = 64 << 20 // of all together
	maxRemember = 10_000   // events whose planned failures are counted
	maxTimes    = 1000
)

var namePattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Attempt is one call that came, as the list shows it.
type Attempt struct {
	ReceivedAt time.Time         `json:"received_at"`
	Verdict    string            `json:"verdict"` // verified, or why not
	Status     int               `json:"status"`  // that was answered
	Headers    map[string]string `json:"headers"` // lower-case names; repeated ones joined by ", "
	Body       string            `json:"body"`    // the bytes that were signed
	Encoding   string            `json:"encoding"`
}

// New makes an empty inbox that verifies with any of the secrets.
func New(secrets ...string) http.Handler {
	b := &box{secrets: secrets, failed: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /inbox/{name}", b.receive)
	mux.HandleFunc("GET /inbox/{name}", b.list)
	mux.HandleFunc("DELETE /inbox/{name}", b.empty)
	return mux
}

// receive takes one callback.
func (b *box) receive(w http.ResponseWriter, r *http.Request) {
	name, ok := nameOf(w, r)
	if !ok {
		return
	}
	plan, err := planOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		status, verdict := http.StatusBadRequest, "refused: the body could not be read"
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status, verdict = http.StatusRequestEntityTooLarge, fmt.Sprintf("refused: the body is larger than %d bytes", maxBody)
		}
		b.answer(w, r, name, nil, verdict, status)
		return
	}
	if err := webhook.Verify(r.Header, body, b.secrets...); err != nil {
		status := http.StatusUnauthorized
		if errors.Is(err, webhook.ErrHeaders) {
			status = http.StatusBadRequest
		}
		b.answer(w, r, name, body, "refused: "+err.Error(), status)
		return
	}
	status := http.StatusNoContent
	if b.fails(name+" "+r.Header.Get(webhook.HeaderID), plan) {
		status = plan.status
	}
	b.answer(w, r, name, body, "verified", status)
}

func (b *box) answer(w http.ResponseWriter, r *http.Request, name string, body []byte, verdict string, status int) {
	a := Attempt{
		ReceivedAt: time.Now().UTC().Truncate(time.Millisecond), Verdict: verdict, Status: status,
		Headers: make(map[string]string, len(r.Header)), Body: string(body), Encoding: "text",
	}
	if !utf8.Valid(body) {
		a.Body, a.Encoding = base64.StdEncoding.EncodeToString(body), "base64"
	}
	for name, values := range r.Header {
		a.Headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	b.keep(name, a)
	if status >= 400 && verdict != "verified" {
		http.Error(w, verdict, status)
		return
	}
	w.WriteHeader(status)
}

// list shows what came for a name, newest first.
func (b *box) list(w http.ResponseWriter, r *http.Request) {
	name, ok := nameOf(w, r)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(b.of(name)) // the reader has gone away
}

func (b *box) empty(w http.ResponseWriter, r *http.Request) {
	if name, ok := nameOf(w, r); ok {
		b.forget(name)
		w.WriteHeader(http.StatusNoContent)
	}
}

func nameOf(w http.ResponseWriter, r *http.Request) (string, bool) {
	name := r.PathValue("name")
	if !namePattern.MatchString(name) {
		http.Error(w, "An inbox has a name of up to 64 letters, digits, dots, dashes and underscores.", http.StatusNotFound)
		return "", false
	}
	return name, true
}

// plan is how often an event is to fail first, and with what.
type plan struct{ status, times int }

func planOf(r *http.Request) (plan, error) {
	q := r.URL.Query()
	if !q.Has("status") && !q.Has("times") {
		return plan{}, nil
	}
	status, err := strconv.Atoi(q.Get("status"))
	if err != nil || status < 200 || status > 599 {
		return plan{}, errors.New("status must be 200 to 599, such as ?status=500&times=2")
	}
	p := plan{status, 1}
	if q.Has("times") {
		if p.times, err = strconv.Atoi(q.Get("times")); err != nil || p.times < 0 || p.times > maxTimes {
			return plan{}, fmt.Errorf("times must be 0 to %d, such as ?status=500&times=2", maxTimes)
		}
	}
	return p, nil
}
