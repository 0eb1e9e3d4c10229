package httpapi

import (
	"context"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// Routes are what the contract is compared with.
func Routes(s *Server) chi.Routes { return s.routes() }

// What the tests of parsing call.
var (
	BatchItems    = batchItems
	FieldsOf      = fieldsOf
	ParseDuration = parseDuration
	Preferences   = func(lines ...string) (wait string, applied string) {
		p := preferences(map[string][]string{"Prefer": lines})
		return p.wait.String(), p.applied
	}
	IdempotencyKey = func(lines ...string) (string, error) {
		return idempotencyKey(map[string][]string{"Idempotency-Key": lines})
	}
	LastEventID = func(header, query string) (int, error) {
		return lastEventID(&http.Request{
			Header: http.Header{"Last-Event-Id": {header}}, URL: &url.URL{RawQuery: url.Values{"last_event_id": {query}}.Encode()},
		})
	}
)

// Submission reads the headers of a submit.
func Submission(s *Server, h http.Header) (broker.Submission, error) {
	ctx := &call{Context: context.Background()}
	return s.submission((&http.Request{Method: http.MethodPost, URL: &url.URL{}, Header: h}).WithContext(ctx), "echo")
}

// Problem answers every call with a failure of this type.
func Problem(s *Server, slug string) http.Handler {
	return s.logged(s.handle(func(http.ResponseWriter, *http.Request) error { return failure{slug: slug} }))
}
