package httpapi

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// status answers a poll or a long-poll. A long-poll always brings a status,
// also when nothing changed: an empty answer would only have to be asked again.
func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	id, err := s.id(r)
	if err != nil {
		return err
	}
	prefer, err := waitOf(r)
	if err != nil {
		return err
	}
	known := strings.Join(r.Header.Values("If-None-Match"), ",")
	record, err := s.look(r, id, prefer, known)
	if err != nil {
		return err
	}
	h, tag := w.Header(), etag(record)
	h["Etag"], h["Cache-Control"], h["Vary"] = []string{tag}, keepButAsk, byWhomAndHow
	if prefer.applied != "" {
		h.Set(api.HeaderPreferenceApplied, prefer.applied)
	}
	if !record.Status.Terminal() {
		h.Set("Retry-After", strconv.Itoa(s.Broker.RetryAfter(r.Context(), record)))
	}
	if prefer.wait == 0 && matches(known, tag) {
		h.Set(api.HeaderCorrelationID, id.String())
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	hide, err := s.redactor(r, record.Service)
	if err != nil {
		return err
	}
	d := s.document(r.Context(), record)
	hide.status(&d)
	s.writeStatus(w, r, http.StatusOK, &d)
	return nil
}

// Values of headers of a status, made once: nobody writes into them.
var (
	keepButAsk   = []string{"private, no-cache"} // that is what the ETag is for
	byWhomAndHow = []string{"Authorization, Prefer"}
)

// look reads the record, resting first where the client asked for it: until
// it differs from what is known, or with nothing known until it is terminal.
func (s *Server) look(r *http.Request, id correlation.ID, prefer preference, known string) (broker.Record, error) {
	if prefer.wait == 0 {
		return s.Hub.Poll(r.Context(), id)
	}
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	var enough func(broker.Record) bool
	if known != "" {
		enough = func(now broker.Record) bool { return !matches(known, etag(now)) }
	}
	return s.Hub.Wait(r.Context(), id, prefer.wait, enough)
}

// etag covers what a waiter waits for, and no estimates: so a long-poll rests
// and a poll gets its 304.
func etag(r broker.Record) string {
	tag := `W/"` + string(r.Status) + "." + strconv.Itoa(r.Attempt) + "." + strconv.Itoa(r.Events)
	if r.RetriedAs != "" { // the one thing that changes after the outcome
		tag += ".retried"
	}
	return tag + `"`
}

// matches compares weakly (RFC 9110, section 13.1.2).
func matches(header, tag string) bool {
	for candidate := range strings.SplitSeq(header, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == strings.TrimPrefix(tag, "W/") {
			return true
		}
	}
	return false
}
