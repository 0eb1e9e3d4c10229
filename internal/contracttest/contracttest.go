// Package contracttest holds tests to the contract: an http.Client that fails
// the test where a request or a response is not as openapi.yaml says. A status
// that the document does not list is a failure too.
//
//	c := contracttest.Client(t)
//	response, err := c.Get(gateway + "/v1/requests/" + id)
package contracttest

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/coatcheck/coatcheck/api"
)

// maxChecked is the largest body that is read to be checked, in bytes.
const maxChecked = 16 << 20

// Document is the contract, read and checked.
var Document = sync.OnceValues(func() (*openapi3.T, error) {
	loader := openapi3.NewLoader()
	d, err := loader.LoadFromData(api.Contract)
	if err != nil {
		return nil, err
	}
	return d, d.Validate(loader.Context, openapi3.DisableExamplesValidation())
})

var router = sync.OnceValues(func() (routers.Router, error) {
	d, err := Document()
	if err != nil {
		return nil, err
	}
	return gorillamux.NewRouter(d)
})

// Client is an http.Client that checks every exchange. It follows no redirects.
func Client(t testing.TB) *http.Client {
	t.Helper()
	r, err := router()
	if err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     checked{t, r, transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type checked struct {
	t      testing.TB
	router routers.Router
	next   http.RoundTripper
}

func (c checked) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	c.t.Helper()
	bare := r.Clone(r.Context())
	bare.URL.Scheme, bare.URL.Host, bare.Host = "", "", "" // the document's server is "/"
	bare.Body = nil
	route, params, err := c.router.FindRoute(bare)
	if err != nil {
		if response.StatusCode != http.StatusNotFound && response.StatusCode != http.StatusMethodNotAllowed {
			c.t.Errorf("%s %s answered %d, but openapi.yaml does not have it: %v", r.Method, r.URL.Path, response.StatusCode, err)
		}
		return response, nil
	}
	operation := route.Operation
	declared := operation.Responses.Status(response.StatusCode)
	if declared == nil {
		if operation.OperationID != "reply" { // there a worker chooses the status
			c.t.Errorf("%s %s answered %d, which openapi.yaml does not list", r.Method, r.URL.Path, response.StatusCode)
		}
		return response, nil
	}
	media := response.Header.Get("Content-Type")
	if !strings.Contains(media, "json") || operation.OperationID == "reply" && declared.Value.Content.Get("application/json") == nil {
		return response, nil // opaque bytes, or a stream that must not be read ahead
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxChecked))
	response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		return response, err
	}
	if declared.Value.Content.Get(media) == nil {
		c.t.Errorf("%s %s answered %d with %s, which openapi.yaml does not list", r.Method, r.URL.Path, response.StatusCode, media)
	}
	if _, opaque := declared.Value.Content["*/*"]; opaque {
		return response, nil
	}
	err = openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: bare, Route: route, PathParams: params},
		Status:                 response.StatusCode, Header: response.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		c.t.Errorf("%s %s: the answer is not as openapi.yaml says: %v\n%s", r.Method, r.URL.Path, err, body)
	}
	return response, nil
}
