package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/coatcheck/coatcheck/internal/auth"
)

// call is what the steps of one HTTP call tell each other and the log. It
// belongs to the goroutine that serves the call.
type call struct {
	who     auth.Principal
	id      string  // of the request it is about, once it is known to be the caller's
	failure failure // zero where all went well

	method, route string
	begun         time.Time
	parked        bool // its stream goes on without its handler, and owns it
}

type callKey struct{}

// callOf is the call of a request that came through logged.
func callOf(r *http.Request) *call { return r.Context().Value(callKey{}).(*call) }

// log puts the correlation ID on every line about a request.
func (s *Server) log(r *http.Request) *slog.Logger { return s.logOf(callOf(r)) }

func (s *Server) logOf(c *call) *slog.Logger {
	if c.id != "" {
		return s.Logger.With("correlation_id", c.id)
	}
	return s.Logger
}

// logged gives each call its notes and writes a line about it: no query (it may
// hold a ticket), no headers, no payload. It is a debug line because the
// outcomes of requests are what an operator follows, by the metrics.
func (s *Server) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{method: r.Method, begun: time.Now()}
		s.part(w)
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		wrapped := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(wrapped, r)
		if c.parked { // its stream writes the line
			return
		}
		c.route = chi.RouteContext(r.Context()).RoutePattern()
		s.logCall(c, wrapped.Status(), wrapped.BytesWritten())
	})
}

func (s *Server) logCall(c *call, status, bytes int) {
	if !s.Logger.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	attributes := []any{
		"method", c.method, "route", c.route,
		"status", status, "bytes", bytes, "took", time.Since(c.begun),
	}
	if c.failure.slug != "" {
		attributes = append(attributes, "problem", c.failure.slug)
		if c.failure.cause != nil {
			attributes = append(attributes, "error", c.failure.cause)
		}
	}
	s.logOf(c).Debug("call", attributes...)
}

// recovered turns a panic into a problem document; the stack goes to the log.
// An answer that has begun can only be broken off, so that nobody takes it for
// a whole one.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			s.log(r).Error("a handler panicked", "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
			if begun, ok := w.(middleware.WrapResponseWriter); ok && begun.Status() != 0 {
				panic(http.ErrAbortHandler)
			}
			s.render(w, r, failure{slug: "internal"})
		}()
		next.ServeHTTP(w, r)
	})
}
