package httpapi

import (
	"errors"
	"net/http"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// drain tells a worker to claim no more. The answer says whether it is one that
// obeys: that it was told is all that is known by then.
func (s *Server) drain(w http.ResponseWriter, r *http.Request) error {
	name := param(r, "name")
	worker, err := s.Broker.Drain(r.Context(), name)
	if errors.Is(err, broker.ErrUnknownWorker) {
		return fail("unknown-worker", "No live worker is called %s, so nothing was told to drain. See /v1/workers for those that are alive.", quoted(name))
	}
	if err != nil {
		return err
	}
	s.log(r).Info("a worker is told to drain", "worker", name, "obeys", worker.Obeys, "busy", worker.Busy)
	s.writeJSON(w, r, http.StatusAccepted, workerDocument(worker))
	return nil
}
