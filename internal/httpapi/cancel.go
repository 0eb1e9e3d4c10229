package httpapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// cancel records the outcome canceled.
func (s *Server) cancel(w http.ResponseWriter, r *http.Request) error {
	id, err := s.id(r, principal(r).Tenant)
	if err != nil {
		return err
	}
	record, err := s.Broker.Cancel(r.Context(), id)
	if errors.Is(err, broker.ErrTerminal) {
		return failure{
			slug: "already-terminal", id: id.String(),
			detail: fmt.Sprintf("The request is %s since %s. That outcome stands and does not change; nothing was canceled.", record.Status, record.Finished.Format("2006-01-02T15:04:05.000Z")),
		}
	}
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(record))
	s.writeJSON(w, http.StatusOK, s.document(r.Context(), record))
	return nil
}

// delete forgets a request now.
func (s *Server) delete(w http.ResponseWriter, r *http.Request) error {
	id, err := s.id(r, principal(r).Tenant)
	if err != nil {
		return err
	}
	if err := s.Broker.Delete(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
