package httpapi

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/coatcheck/coatcheck/internal/auth"
)

func (s *Server) routes() http.Handler {
	r := chi.NewRouter()
	r.Use(s.logged, s.recovered)
	r.NotFound(s.handle(noSuchRoute))
	r.MethodNotAllowed(s.handle(methodNotAllowed))

	r.Post("/v1/services/{service}/requests", s.handle(s.submit, auth.Submit))
	r.Get("/v1/requests/{id}", s.handle(s.status, auth.Read))
	r.Delete("/v1/requests/{id}", s.handle(s.delete, auth.Cancel))
	r.Get("/v1/requests/{id}/reply", s.handle(s.reply, auth.Read))
	r.Get("/v1/requests/{id}/events", s.handle(s.events))
	r.Post("/v1/requests/{id}/cancel", s.handle(s.cancel, auth.Cancel))
	r.Post("/v1/requests/{id}/stream-ticket", s.handle(s.streamTicket, auth.Read))

	r.Get("/v1/services", s.handle(s.services, auth.Read))
	r.Get("/v1/services/{service}", s.handle(s.service, auth.Read))

	r.Get("/livez", s.handle(s.livez))
	r.Get("/readyz", s.handle(s.readyz))
	r.Get("/openapi.yaml", s.handle(s.openapi))
	r.Get("/problems/{slug}", s.handle(s.problem))
	if s.Metrics != nil {
		r.Get("/metrics", s.handle(s.metrics, auth.Admin))
	}
	if s.Page != nil {
		r.Get("/ui", http.RedirectHandler("/ui/", http.StatusMovedPermanently).ServeHTTP)
		r.Get("/ui/*", http.StripPrefix("/ui", s.Page).ServeHTTP)
	}
	if s.Inbox != nil {
		r.Handle("/inbox/{name}", s.Inbox)
	}
	return r
}
