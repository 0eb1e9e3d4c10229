package httpapi

import (
	"errors"
	"net/http"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// cancel records the outcome canceled, and answers with it.
func (s *Server) cancel(w http.ResponseWriter, r *http.Request) error {
	id, err := s.id(r)
	if err != nil {
		return err
	}
	record, err := s.Broker.Cancel(r.Context(), id)
	if errors.Is(err, broker.ErrTerminal) {
		w.Header().Set("ETag", etag(record))
		return fail("already-terminal", "The outcome of the request is %s, since %s. It stands and does not change; nothing was canceled.",
			record.Status, api.Time(record.Finished))
	}
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(record))
	d := s.document(r.Context(), record)
	s.writeStatus(w, r, http.StatusOK, &d)
	return nil
}
