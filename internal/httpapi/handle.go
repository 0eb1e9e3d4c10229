package httpapi

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/go-chi/chi/v5"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/auth"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// handler answers a call, or returns why not.
type handler func(w http.ResponseWriter, r *http.Request) error

// handle turns a handler into an http.HandlerFunc that checks who calls, and
// renders what goes wrong.
func (s *Server) handle(h handler, scopes ...auth.Scope) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := s.allowed(r, scopes...)
		if err == nil {
			err = h(w, r)
		}
		if err != nil {
			s.render(w, r, describe(err))
		}
	}
}

// allowed notes who calls, where every scope is theirs. No scope means that
// anybody may.
func (s *Server) allowed(r *http.Request, scopes ...auth.Scope) error {
	if len(scopes) == 0 {
		return nil
	}
	who, err := s.Keys.Authenticate(r.Header.Get("Authorization"))
	if err != nil {
		return err
	}
	for _, scope := range scopes {
		if !who.May(scope) {
			return fail("forbidden", "This call needs the scope %q, which the API key does not have. Nothing was done; use a key that has it.", scope)
		}
	}
	callOf(r).who = who
	return nil
}

// id reads the correlation ID of the path. One that was never issued to the
// caller is refused without asking Redis, and always by the same bytes.
func (s *Server) id(r *http.Request) (correlation.ID, error) {
	id, err := pathID(r)
	if err != nil {
		return id, err
	}
	c := callOf(r)
	if err := s.Broker.Verify(id, c.who.Tenant); err != nil {
		return id, err
	}
	c.id = id.String()
	return id, nil
}

func pathID(r *http.Request) (correlation.ID, error) { return correlation.Parse(param(r, "id")) }

// param is a part of the path as it is meant: chi routes by the path as it was
// sent where that differs from the usual encoding.
func param(r *http.Request, name string) string {
	sent := chi.URLParam(r, name)
	if r.URL.RawPath == "" {
		return sent
	}
	if meant, err := url.PathUnescape(sent); err == nil {
		return meant
	}
	return sent
}

// query is a parameter after the question mark, "" where there is none. What
// can't be read is refused, not passed over.
func query(r *http.Request, name string) (string, error) {
	if r.URL.RawQuery == "" {
		return "", nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", fail("invalid-option", "The query after ? can't be read; write it as name=value&name=value, percent-encoded. Nothing was done.")
	}
	return values.Get(name), nil
}

// Values of headers that each document has, made once: nobody writes into them.
var (
	typeJSON = []string{"application/json"}
	noStore  = []string{"no-store"}
	noSniff  = []string{"nosniff"}
)

// writeJSON writes a document, byte for byte as it stands in an event and in a
// callback. A client that left is nobody's error.
func (s *Server) writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := broker.EncodeJSON(v)
	s.writeDocument(w, r, status, body, err)
}

// documents are buffers of answers that were written.
var documents = sync.Pool{New: func() any { return new([]byte) }}

// writeStatus is writeJSON of a status document, which nearly every answer has.
func (s *Server) writeStatus(w http.ResponseWriter, r *http.Request, status int, d *api.Status) {
	buffer := documents.Get().(*[]byte)
	body, err := broker.AppendStatus((*buffer)[:0], d)
	s.writeDocument(w, r, status, body, err)
	*buffer = body
	documents.Put(buffer)
}

func (s *Server) writeDocument(w http.ResponseWriter, r *http.Request, status int, body []byte, err error) {
	if err != nil {
		s.log(r).Error("encode a document", "error", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	s.part(w) // it may have waited for long
	h := w.Header()
	setDefault(h, "Content-Type", typeJSON)
	setDefault(h, "Cache-Control", noStore)
	if id := callOf(r).id; id != "" {
		h[api.HeaderCorrelationID] = []string{id}
	}
	h["X-Content-Type-Options"] = noSniff
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// setDefault takes a name in its canonical form.
func setDefault(h http.Header, name string, values []string) {
	if len(h[name]) == 0 {
		h[name] = values
	}
}

func noSuchRoute(http.ResponseWriter, *http.Request) error { return failure{slug: "no-such-route"} }

// methodNotAllowed names the methods that the path has (RFC 9110, section
// 15.5.6).
func methodNotAllowed(w http.ResponseWriter, r *http.Request) error {
	var allow []string
	routes, path := chi.RouteContext(r.Context()).Routes, r.URL.Path
	if r.URL.RawPath != "" { // what chi routed by
		path = r.URL.RawPath
	}
	for _, method := range []string{http.MethodDelete, http.MethodGet, http.MethodPatch, http.MethodPost, http.MethodPut} {
		if !routes.Match(chi.NewRouteContext(), method, path) {
			continue
		}
		allow = append(allow, method)
		if method == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	if len(allow) == 0 { // chi asks no path about a method that it doesn't know
		return noSuchRoute(w, r)
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	return fail("method-not-allowed", "This path takes %s, and the call is %s. Nothing was done.", strings.Join(allow, ", "), quoted(r.Method))
}
