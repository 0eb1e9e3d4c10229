package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// pause has requests of a service accepted and not given to workers.
func (s *Server) pause(w http.ResponseWriter, r *http.Request) error {
	return s.control(w, r, s.Broker.Pause)
}

// resume takes a pause back.
func (s *Server) resume(w http.ResponseWriter, r *http.Request) error {
	return s.control(w, r, s.Broker.Resume)
}

// control does something to a service, and shows it. What was begun is finished,
// also where the caller hangs up.
func (s *Server) control(w http.ResponseWriter, r *http.Request, do func(context.Context, string) error) error {
	ctx := context.WithoutCancel(r.Context())
	name := param(r, "service")
	if err := do(ctx, name); errors.Is(err, broker.ErrUnknownService) {
		return fail("unknown-service", "No worker ever announced the service %s and no configuration names it. Nothing was changed; see /v1/services for those that are known.", quoted(name))
	} else if err != nil {
		return err
	}
	return s.service(w, r)
}
