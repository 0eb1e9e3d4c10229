package httpapi

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// retry redrives a dead letter: the answer is the new request's, as of a submit.
func (s *Server) retry(w http.ResponseWriter, r *http.Request) error {
	id, err := s.id(r)
	if err != nil {
		return err
	}
	if s.draining.Load() {
		return failure{slug: "draining"}
	}
	record, replayed, err := s.Broker.Retry(r.Context(), id)
	if errors.Is(err, broker.ErrNotDead) && record.Legs != nil {
		return fail("not-dead", "A scatter keeps no body of its own, so it is not redriven. Nothing was accepted; submit the scatter anew if it shall run again.")
	}
	if errors.Is(err, broker.ErrNotDead) {
		return fail("not-dead", "The request is %s, and only one that failed or timed out is redriven. Nothing was accepted; submit it anew if it shall run again.", record.Status)
	}
	if err != nil {
		return s.refused(r, err, record.Service)
	}
	callOf(r).id = record.ID.String()
	h := w.Header()
	h.Set("Location", broker.Document(record, s.PublicURL).Links.Self)
	if replayed {
		h.Set(api.HeaderIdempotencyReplayed, "true")
	}
	if !record.Status.Terminal() {
		h.Set("Retry-After", strconv.Itoa(s.Broker.RetryAfter(r.Context(), record)))
	}
	s.writeJSON(w, r, http.StatusAccepted, s.document(r.Context(), record))
	return nil
}
