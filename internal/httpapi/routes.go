package httpapi

import (
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/coatcheck/coatcheck/internal/auth"
)

// routes is the whole front door: one line is one operation, its handler is in
// the file of the same name, and the scopes after it are what the API key needs.
func (s *Server) routes() chi.Router {
	r := chi.NewRouter()
	r.Use(s.recovered, s.paced, s.sameOrigin, middleware.GetHead)
	r.NotFound(s.handle(noSuchRoute))
	r.MethodNotAllowed(s.handle(methodNotAllowed))

	r.Post("/v1/services/{service}/requests", s.handle(s.submit, auth.Submit))
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} { // below the service, for its backend
		r.MethodFunc(method, "/v1/services/{service}/requests/*", s.handle(s.submit, auth.Submit))
	}
	r.Post("/v1/scatter", s.handle(s.scatter, auth.Submit))
	r.Get("/v1/requests", s.handle(s.list, auth.Read))
	r.Get("/v1/requests/{id}", s.handle(s.status, auth.Read))
	r.Delete("/v1/requests/{id}", s.handle(s.delete, auth.Cancel))
	r.Get("/v1/requests/{id}/reply", s.handle(s.reply, auth.Read))
	r.Get("/v1/requests/{id}/replies", s.handle(s.replies, auth.Read))
	r.Get("/v1/requests/{id}/events", s.handle(s.events)) // an API key with read, or a ticket
	r.Post("/v1/requests/{id}/cancel", s.handle(s.cancel, auth.Cancel))
	r.Post("/v1/requests/{id}/retry", s.handle(s.retry, auth.Submit))
	r.Post("/v1/requests/{id}/stream-ticket", s.handle(s.streamTicket, auth.Read))

	r.Get("/v1/dead-letters", s.handle(s.deadLetters, auth.Read))
	r.Delete("/v1/dead-letters", s.handle(s.purge, auth.Admin))
	r.Post("/v1/redrives", s.handle(s.redriveAll, auth.Admin))
	r.Get("/v1/redrives/{id}", s.handle(s.redrive, auth.Admin))
	r.Post("/v1/redrives/{id}/cancel", s.handle(s.stopRedrive, auth.Admin))
	r.Post("/v1/batches", s.handle(s.submitBatch, auth.Submit))
	r.Get("/v1/batches/{id}", s.handle(s.batch, auth.Read))
	r.Get("/v1/batches/{id}/events", s.handle(s.batchEvents, auth.Read))
	r.Post("/v1/batches/{id}/cancel", s.handle(s.cancelBatch, auth.Cancel))

	r.Get("/v1/services", s.handle(s.services, auth.Read))
	r.Get("/v1/services/{service}", s.handle(s.service, auth.Read))
	r.Post("/v1/services/{service}/pause", s.handle(s.pause, auth.Admin))
	r.Post("/v1/services/{service}/resume", s.handle(s.resume, auth.Admin))

	r.Post("/v1/services/{service}/claims", s.handle(s.claim, auth.Work))
	r.Post("/v1/claims/{token}/replies", s.handle(s.answer, auth.Work))
	r.Get("/v1/services/{service}/openapi.json", s.handle(s.serviceContract, auth.Read))
	r.Get("/v1/workers", s.handle(s.workers, auth.Read))
	r.Post("/v1/workers/{name}/drain", s.handle(s.drain, auth.Admin))

	r.Get("/livez", s.handle(s.livez))
	r.Get("/readyz", s.handle(s.readyz))
	r.Get("/openapi.yaml", s.handle(s.openapi))
	r.Get("/asyncapi.yaml", s.handle(s.asyncapi))
	r.Get("/problems", s.handle(s.problems))
	r.Get("/problems/{slug}", s.handle(s.problem))
	if s.Metrics != nil && !s.AdminApart {
		r.Get("/metrics", s.handle(s.metrics, auth.Admin))
	}
	if s.Page != nil {
		r.Get("/", http.RedirectHandler("/ui/", http.StatusFound).ServeHTTP)
		r.Get("/ui", http.RedirectHandler("/ui/", http.StatusMovedPermanently).ServeHTTP)
		r.Get("/ui/*", s.Page.ServeHTTP)
		r.Get("/docs", s.Page.ServeHTTP)
	}
	if s.Inbox != nil {
		r.Post("/inbox/{name}", s.Inbox.ServeHTTP)
		r.Get("/inbox/{name}", s.Inbox.ServeHTTP)
		r.Delete("/inbox/{name}", s.Inbox.ServeHTTP)
	}
	return r
}

// sameOrigin refuses what a page of another site makes a browser send: with no
// API keys, every page that is open on an operator's machine could submit.
func (s *Server) sameOrigin(next http.Handler) http.Handler {
	guard := http.NewCrossOriginProtection()
	if u, err := url.Parse(s.PublicURL); err == nil && u.Host != "" {
		_ = guard.AddTrustedOrigin(u.Scheme + "://" + u.Host) // what is no origin is trusted by nobody
	}
	guard.SetDenyHandler(s.handle(func(http.ResponseWriter, *http.Request) error {
		return fail("forbidden", "A page of another origin made the browser send this call. Nothing was done; call from this gateway's own page, or from a program.")
	}))
	return guard.Handler(next)
}
