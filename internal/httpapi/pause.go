package httpapi

import (
	"context"
	"net/http"
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
	if err := do(ctx, param(r, "service")); err != nil {
		return err
	}
	return s.service(w, r)
}
