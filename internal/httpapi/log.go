package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/coatcheck/coatcheck/internal/auth"
)

// call is what the steps of one HTTP call tell each other and the log. It
// belongs to the goroutine that serves the call. It is the context of the call as well,
// so that all that a call needs is one piece of memory.
type call struct {
	context.Context
	routing *chi.Context // the handler's
	answer  answer
	notes
}

// notes are what is left of a call whose stream goes on without its handler.
type notes struct {
	who     auth.Principal
	id      string  // of the request it is about, once it is known to be the caller's
	failure failure // zero where all went well

	method, route string
	begun         time.Time
	parked        bool // its stream goes on without its handler
}

type callKey struct{}

// Value has what net/http gave the call, too.
func (c *call) Value(key any) any {
	switch key {
	case callKey{}:
		return c
	case chi.RouteCtxKey:
		return c.routing
	}
	return c.Context.Value(key)
}

// answer notes what is sent through it, for the log.
type answer struct {
	http.ResponseWriter
	status int // 0: it has not begun
	bytes  int // of the body
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(b)
	a.bytes += n
	return n, err
}

// routings are those of calls that are over.
var routings = sync.Pool{New: func() any { return chi.NewRouteContext() }}

// callOf is the call of a request that came through logged.
func callOf(r *http.Request) *call { return r.Context().Value(callKey{}).(*call) }

// log puts the correlation ID on every line about a request.
func (s *Server) log(r *http.Request) *slog.Logger { return s.logOf(&callOf(r).notes) }

func (s *Server) logOf(c *notes) *slog.Logger {
	if c.id != "" {
		return s.Logger.With("correlation_id", c.id)
	}
	return s.Logger
}

// logged gives each call its notes and writes a line about it: no query (it may
// hold a ticket), no headers, no payload. It is a debug line because the
// outcomes of requests are what an operator follows, by the metrics. It stands before
// the router, which makes a context of its own for each call else.
func (s *Server) logged(next http.Handler) http.Handler {
	routes, _ := next.(chi.Routes)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{
			Context: r.Context(), routing: routings.Get().(*chi.Context), answer: answer{ResponseWriter: w},
			notes: notes{method: r.Method, begun: time.Now()},
		}
		c.routing.Reset()
		c.routing.Routes = routes
		s.part(w)
		next.ServeHTTP(&c.answer, r.WithContext(c))
		if !c.parked { // else its stream writes the line
			c.route = c.routing.RoutePattern()
			s.logCall(&c.notes, c.answer.status, c.answer.bytes)
		}
		routings.Put(c.routing)
	})
}

func (s *Server) logCall(c *notes, status, bytes int) {
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
			if callOf(r).answer.status != 0 {
				panic(http.ErrAbortHandler)
			}
			s.render(w, r, failure{slug: "internal"})
		}()
		next.ServeHTTP(w, r)
	})
}
