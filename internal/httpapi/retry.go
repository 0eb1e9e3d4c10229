package httpapi

import (
	"errors"
	"net/http"
	"strings"

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
	for name := range r.Header {
		if strings.HasPrefix(name, api.OptionPrefix) {
			return fail("invalid-option", "A redrive has the options that the request was submitted with, and takes no %s. Nothing was accepted; leave it out, or submit anew.", quoted(name))
		}
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
	return s.accepted(w, r, record, replayed, wishOf(r.Header))
}
