package httpapi

import "net/http"

// delete forgets a request now. Whoever waits for it learns that it is gone.
func (s *Server) delete(w http.ResponseWriter, r *http.Request) error {
	id, err := s.id(r)
	if err != nil {
		return err
	}
	if err := s.Broker.Delete(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
