package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/auth"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// handler answers a call, or returns why not.
type handler func(w http.ResponseWriter, r *http.Request) error

// failure is an error that the client is told of.
type failure struct {
	slug       string // of the problem type
	detail     string // for the client; "" for the type's own text
	retryAfter int    // seconds; 0 for none
	id         string // correlation ID, where one is known
	cause      error  // for the log
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

// table is what each failure of the inner rooms is to a client.
var table = []struct {
	err  error
	slug string
}{
	{broker.ErrGone, "gone"},
	{broker.ErrTerminal, "already-terminal"},
	{broker.ErrUnknownService, "unknown-service"},
	{broker.ErrIdempotencyMismatch, "idempotency-mismatch"},
	{broker.ErrQueueFull, "queue-full"},
	{broker.ErrMemory, "memory-full"},
	{broker.ErrUnknownOutcome, "acceptance-unknown"},
	{broker.ErrUnavailable, "unavailable"},
	{broker.ErrClosed, "draining"},
	{correlation.ErrForged, "not-found"},
	{correlation.ErrMalformed, "not-found"},
	{auth.ErrUnauthenticated, "unauthenticated"},
	{auth.ErrTicket, "unauthenticated"},
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

// handle turns a handler into an http.HandlerFunc that checks who calls, and
// renders what goes wrong.
func (s *Server) handle(h handler, scopes ...auth.Scope) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := s.allowed(&r, scopes)
		if err == nil {
			err = h(w, r)
		}
		if err != nil {
			s.render(w, r, describe(err))
		}
	}
}

type principalKey struct{}

// allowed puts the principal into the request's context.
func (s *Server) allowed(r **http.Request, scopes []auth.Scope) error {
	if len(scopes) == 0 {
		return nil
	}
	who, err := s.Keys.Authenticate((*r).Header.Get("Authorization"))
	if err != nil {
		return err
	}
	for _, scope := range scopes {
		if !who.May(scope) {
			return fail("forbidden", "This call needs the scope %q, which the API key does not have. Nothing was done; use a key that has it.", scope)
		}
	}
	*r = (*r).WithContext(context.WithValue((*r).Context(), principalKey{}, who))
	return nil
}

func principal(r *http.Request) auth.Principal {
	who, _ := r.Context().Value(principalKey{}).(auth.Principal)
	return who
}

// id reads the correlation ID of the path. One that was never issued to the
// caller is refused without asking Redis, and always by the same bytes.
func (s *Server) id(r *http.Request, tenant string) (correlation.ID, error) {
	id, err := correlation.Parse(chi.URLParam(r, "id"))
	if err != nil {
		return id, err
	}
	if err := s.Broker.Verify(id, tenant); err != nil {
		return id, err
	}
	note(r, id.String())
	return id, nil
}

func (s *Server) render(w http.ResponseWriter, r *http.Request, f failure) {
	kind, ok := api.ProblemNamed(f.slug)
	if !ok {
		kind, _ = api.ProblemNamed("internal")
	}
	p := kind.New(f.detail)
	p.CorrelationID = f.id
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	switch {
	case f.retryAfter > 0:
		h.Set("Retry-After", strconv.Itoa(f.retryAfter))
	case kind.Retry:
		h.Set("Retry-After", "1")
	}
	if kind.Slug == "unauthenticated" {
		h.Set("WWW-Authenticate", `Bearer realm="coatcheck"`)
	}
	if kind.Slug == "internal" {
		s.Logger.Error("a call failed", "path", r.URL.Path, "error", f.cause)
	} else if f.cause != nil && p.Status >= 500 {
		s.Logger.Warn("a call could not be answered", "path", r.URL.Path, "problem", f.slug, "error", f.cause)
	}
	s.writeJSON(w, p.Status, p)
}

// writeJSON writes a document; a client that left is nobody's error.
func (s *Server) writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := broker.EncodeJSON(v)
	if err != nil {
		s.Logger.Error("encode a document", "error", err)
		status, body = http.StatusInternalServerError, []byte(`{"title":"The gateway made a mistake"}`)
	}
	h := w.Header()
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

func noSuchRoute(http.ResponseWriter, *http.Request) error { return failure{slug: "no-such-route"} }

func methodNotAllowed(http.ResponseWriter, *http.Request) error {
	return failure{slug: "method-not-allowed"}
}

// recovered turns a panic into a problem document; the stack goes to the log.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(v)
				}
				s.Logger.Error("a handler panicked", "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
				s.render(w, r, failure{slug: "internal"})
			}
		}()
		next.ServeHTTP(w, r)
	})
}

type noteKey struct{}

// note puts a correlation ID on the log line of the call.
func note(r *http.Request, id string) {
	if place, ok := r.Context().Value(noteKey{}).(*string); ok {
		*place = id
	}
}

// logged writes a line a call: no query (it may hold a ticket), no payload.
func (s *Server) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.Logger.Enabled(r.Context(), slog.LevelDebug) {
			next.ServeHTTP(w, r)
			return
		}
		begun, id := time.Now(), ""
		wrapped := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(wrapped, r.WithContext(context.WithValue(r.Context(), noteKey{}, &id)))
		attrs := []any{"method", r.Method, "path", r.URL.Path, "status", wrapped.Status(), "bytes", wrapped.BytesWritten(), "took", time.Since(begun)}
		if id != "" {
			attrs = append(attrs, "correlation_id", id)
		}
		s.Logger.Debug("call", attrs...)
	})
}
