package httpapi

import (
	"errors"
	"fmt"
	"html/template"
	"math/rand/v2"
	"net/http"
	"strconv"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/auth"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

const (
	retrySpread = 3   // seconds over which a crowd that was refused comes back
	longestEcho = 100 // bytes of a client's own words in an answer
)

// failure is an error that the client is told of.
type failure struct {
	slug       string // of the problem type
	detail     string // for the client; "" for the type's own text
	retryAfter int    // seconds; 0: soon, where a retry can help at all
	faults     []api.Fault
	cause      error // for the log
}

func (f failure) Error() string {
	if f.cause != nil {
		return f.slug + ": " + f.cause.Error()
	}
	return f.slug + ": " + f.detail
}

func (f failure) Unwrap() error { return f.cause }

func fail(slug, detail string, args ...any) failure {
	return failure{slug: slug, detail: fmt.Sprintf(detail, args...)}
}

// quoted repeats what a client sent, as far as that helps.
func quoted(text string) string {
	if len(text) > longestEcho {
		return strconv.QuoteToASCII(text[:longestEcho]) + "…" // behind the quote: it was not sent
	}
	return strconv.QuoteToASCII(text)
}

// table is what each failure of the inner rooms is to a client. The first row
// that fits counts.
var table = []struct {
	err  error
	slug string
}{
	{broker.ErrUnknownOutcome, "effect-unknown"}, // it wraps what broke the connection
	{broker.ErrUndurable, "not-durable"},         // some of it may pass, and is unavailable too
	{broker.ErrGone, "gone"},
	{broker.ErrTerminal, "already-terminal"},
	{broker.ErrNotDead, "not-dead"},
	{broker.ErrUnknownService, "unknown-service"},
	{broker.ErrUnknownClaim, "unknown-claim"},
	{broker.ErrIdempotencyMismatch, "idempotency-mismatch"},
	{broker.ErrQueueFull, "queue-full"},
	{broker.ErrNotCached, "not-cached"},
	{broker.ErrMemory, "memory-full"},
	{broker.ErrUnavailable, "unavailable"},
	{broker.ErrClosed, "draining"},
	{correlation.ErrForged, "not-found"},
	{correlation.ErrMalformed, "not-found"},
	{auth.ErrUnauthenticated, "unauthenticated"},
}

func describe(err error) failure {
	if f, ok := errors.AsType[failure](err); ok {
		return f
	}
	for _, row := range table {
		if errors.Is(err, row.err) {
			return failure{slug: row.slug, cause: err}
		}
	}
	return failure{slug: "internal", cause: err}
}

// render writes a problem document (RFC 9457). The cause goes to the log alone:
// it may hold what Redis said, key names, addresses.
func (s *Server) render(w http.ResponseWriter, r *http.Request, f failure) {
	kind, ok := api.ProblemNamed(f.slug)
	if !ok {
		kind, _ = api.ProblemNamed("internal")
	}
	s.told[kind.Slug].Add(1)
	c := callOf(r)
	c.failure = f
	if kind.Slug == "internal" && r.Context().Err() == nil {
		s.log(r).Error("a call failed", "method", r.Method, "path", r.URL.Path, "error", f.cause)
	}
	p := kind.New(f.detail)
	p.CorrelationID, p.Errors = c.id, f.faults
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	switch {
	case f.retryAfter > 0:
		h.Set("Retry-After", strconv.Itoa(f.retryAfter))
	case kind.Retry:
		h.Set("Retry-After", strconv.Itoa(1+rand.IntN(retrySpread)))
	}
	if kind.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="coatcheck"`)
	}
	s.writeJSON(w, r, p.Status, p)
}

// problemPages begin alike. Their links are relative: a proxy may put them elsewhere.
var problemPages = template.Must(template.New("head").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.}}</title>
<style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}code{font-size:1.1em}</style>
`))

var problemPage = template.Must(template.Must(problemPages.Clone()).New("problem").Parse(`{{template "head" .Title}}<p><code>{{.Status}} {{.Slug}}</code></p>
<h1>{{.Title}}</h1>
<p>{{.Meaning}}</p>
{{if .Retry}}<p>The same call may succeed later; Retry-After says when.</p>
{{end}}<p><a href="../problems">All problems</a></p>
</html>
`))

var problemIndex = template.Must(template.Must(problemPages.Clone()).New("index").Parse(`{{template "head" "Problems"}}<h1>Problems</h1>
<p>What a call can be answered with in place of what it asks for. Each is the type of a problem document (RFC 9457).</p>
<ul>
{{range .}}<li><a href="problems/{{.Slug}}"><code>{{.Status}} {{.Slug}}</code></a> {{.Title}}</li>
{{end}}</ul>
</html>
`))

// problem is the page at the type of a problem document.
func (s *Server) problem(w http.ResponseWriter, r *http.Request) error {
	slug := param(r, "slug")
	kind, ok := api.ProblemNamed(slug)
	if !ok || kind.Slug != slug { // it also takes a whole path
		return failure{slug: "no-such-route"}
	}
	return page(w, problemPage, kind)
}

// problems is the page that leads to all of them.
func (s *Server) problems(w http.ResponseWriter, _ *http.Request) error {
	return page(w, problemIndex, api.Problems)
}

func page(w http.ResponseWriter, t *template.Template, of any) error {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	h.Set("X-Content-Type-Options", "nosniff")
	return t.Execute(w, of)
}
