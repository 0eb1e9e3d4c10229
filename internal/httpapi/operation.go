package httpapi

import (
	"html/template"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/coatcheck/coatcheck/api"
)

// livez says that the process runs; whether Redis does is readyz' question.
func (s *Server) livez(w http.ResponseWriter, _ *http.Request) error {
	return s.text(w, "text/plain; charset=utf-8", []byte("ok\n"))
}

// readyz says whether this gateway takes requests.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) error {
	if s.draining.Load() {
		return failure{slug: "draining"}
	}
	if err := s.Broker.Ready(); err != nil {
		return err
	}
	return s.text(w, "text/plain; charset=utf-8", []byte("ok\n"))
}

func (s *Server) openapi(w http.ResponseWriter, _ *http.Request) error {
	return s.text(w, "application/yaml", api.Contract)
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) error {
	s.Metrics.ServeHTTP(w, r)
	return nil
}

var problemPage = template.Must(template.New("problem").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.Title}}</title>
<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem;color-scheme:light dark}code{font-size:1.1em}</style>
<p><code>{{.Status}} {{.Slug}}</code></p>
<h1>{{.Title}}</h1>
<p>{{.Meaning}}</p>
{{if .Retry}}<p>The same call may succeed later; Retry-After says when.</p>{{end}}
</html>
`))

// problem is the page at the type of a problem document.
func (s *Server) problem(w http.ResponseWriter, r *http.Request) error {
	kind, ok := api.ProblemNamed(chi.URLParam(r, "slug"))
	if !ok {
		return failure{slug: "no-such-route"}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	return problemPage.Execute(w, kind)
}

func (s *Server) text(w http.ResponseWriter, contentType string, body []byte) error {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(body) // a client that left is nobody's error
	return nil
}
