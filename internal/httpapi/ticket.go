package httpapi

import (
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/auth"
)

// streamTicket gives a browser what its EventSource can send: a query parameter
// that opens the events of one request for five minutes.
func (s *Server) streamTicket(w http.ResponseWriter, r *http.Request) error {
	id, err := s.id(r)
	if err != nil {
		return err
	}
	if _, err := s.Broker.Status(r.Context(), id); err != nil {
		return err
	}
	expires := time.Now().Add(ticketLife).Truncate(time.Second)
	s.writeJSON(w, r, http.StatusOK, api.StreamTicket{
		Ticket:    auth.Ticket(s.Broker.Secret(), id.String(), callOf(r).who.Tenant, expires),
		ExpiresAt: api.Time(expires),
	})
	return nil
}
