package httpapi

import (
	"net/http"
	"net/http/pprof"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/coatcheck/coatcheck/internal/auth"
)

// Admin is what operators look at, for a listener of its own. Profiles are only
// there: they tell more than others should know, and cost.
func (s *Server) Admin() http.Handler {
	r := chi.NewRouter()
	r.Use(s.recovered, middleware.GetHead)
	r.NotFound(s.handle(noSuchRoute))
	r.MethodNotAllowed(s.handle(methodNotAllowed))

	r.Get("/livez", s.handle(s.livez))
	r.Get("/readyz", s.handle(s.readyz))
	r.Get("/metrics", s.handle(s.metrics, auth.Admin))
	r.Get("/debug/pprof/*", s.handle(s.profile, auth.Admin))
	return s.logged(r)
}

// profile serves net/http/pprof, for `go tool pprof`.
func (s *Server) profile(w http.ResponseWriter, r *http.Request) error {
	switch chi.URLParam(r, "*") {
	case "profile":
		pprof.Profile(w, r)
	case "trace":
		pprof.Trace(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "cmdline": // may hold a password
		return noSuchRoute(w, r)
	default:
		pprof.Index(w, r)
	}
	return nil
}
