package httpapi

import (
	"context"
	"fmt"
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
	h := w.Header()
	h.Set("ETag", etag(record))
	h.Set("Cache-Control", "private, no-cache") // keep it, but ask: that is what the ETag is for
	h.Set("Vary", "Authorization, Prefer")
	if prefer.applied != "" {
		h.Set(api.HeaderPreferenceApplied, prefer.applied)
	}
	if !record.Status.Terminal() {
		h.Set("Retry-After", strconv.Itoa(s.Broker.RetryAfter(r.Context(), record)))
	}
	if prefer.wait == 0 && matches(known, etag(record)) {
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

// look reads the record, resting first where the client asked for it: until
// it differs from what is known, or with nothing known until it is terminal.
func (s *Server) look(r *http.Request, id correlation.ID, prefer preference, known string) (broker.Record, error) {
	if prefer.wait == 0 {
		return s.Hub.Poll(r.Context(), id)
	}
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	ctx, stop := context.WithTimeout(r.Context(), prefer.wait)
	defer stop()
	var enough func(broker.Record) bool
	if known != "" {
		enough = func(now broker.Record) bool { return !matches(known, etag(now)) }
	}
	return s.Hub.Wait(ctx, id, enough)
}

// etag covers what a waiter waits for, and no estimates: so a long-poll rests
// and a poll gets its 304.
func etag(r broker.Record) string {
	if r.RetriedAs != "" { // the one thing that changes after the outcome
		return fmt.Sprintf(`W/"%s.%d.%d.retried"`, r.Status, r.Attempt, r.Events)
	}
	return fmt.Sprintf(`W/"%s.%d.%d"`, r.Status, r.Attempt, r.Events)
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
