// Package contracttest holds tests to the contract: an http.Client that fails
// the test where an answer is not as openapi.yaml says, or where a call was
// taken that it doesn't allow. A status that the document does not list is a
// failure too.
//
//	c := contracttest.Client(t)
//	response, err := c.Get(gateway + "/v1/requests/" + id)
//
// Two things no document lists: HEAD, which is held to what GET promises, and
// the status of a reply, which its worker chose.
package contracttest

import (
	"bytes"
	"context"
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
	for _, opaque := range []string{"text/event-stream", "text/html", "application/yaml"} {
		openapi3filter.RegisterBodyDecoder(opaque, func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
			text, err := io.ReadAll(body)
			return string(text), err
		})
	}
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
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     Transport(t, transport),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Transport checks what goes through next. Reading the contract the first time
// starts what lives on, so in a testing/synctest bubble it must have been read
// before: call Read.
func Transport(t testing.TB, next http.RoundTripper) http.RoundTripper {
	t.Helper()
	return checked{t, Read(t), next}
}

// Read reads the contract.
func Read(t testing.TB) routers.Router {
	t.Helper()
	r, err := router()
	if err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	return r
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
	bare := r.Clone(context.Background())
	bare.URL.Scheme, bare.URL.Host, bare.Host = "", "", "" // the document's server is "/"
	bare.URL.RawPath = ""                                  // a path means what it decodes to
	bare.Body = nil
	if bare.Method == http.MethodHead {
		bare.Method = http.MethodGet
	}
	route, params, err := c.router.FindRoute(bare)
	if err != nil {
		if response.StatusCode != http.StatusNotFound && response.StatusCode != http.StatusMethodNotAllowed {
			c.t.Errorf("%s %s answered %d, but openapi.yaml does not have it: %v", r.Method, r.URL.Path, response.StatusCode, err)
		}
		return response, nil
	}
	ask := &openapi3filter.RequestValidationInput{
		Request: bare, Route: route, PathParams: params,
		Options: &openapi3filter.Options{ExcludeRequestBody: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if err := openapi3filter.ValidateRequest(bare.Context(), ask); err != nil && response.StatusCode < http.StatusBadRequest {
		c.t.Errorf("%s %s was taken, against openapi.yaml: %v", r.Method, r.URL.Path, err)
	}
	kind := response.Header.Get("Content-Type")
	json := kind == "application/json" || kind == "application/problem+json"
	declared := route.Operation.Responses.Status(response.StatusCode)
	ofWorker := route.Operation.OperationID == "reply" && (declared == nil || !json)
	if ofWorker {
		return response, nil
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: ask, Status: response.StatusCode, Header: response.Header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	raw := declared != nil && declared.Value.Content["*/*"] != nil
	if raw || r.Method == http.MethodHead || strings.HasPrefix(kind, "text/event-stream") { // a stream must not be read ahead
		input.Options.ExcludeResponseBody = true
	} else {
		body, err := io.ReadAll(io.LimitReader(response.Body, maxChecked))
		response.Body.Close()
		response.Body = io.NopCloser(bytes.NewReader(body))
		if err != nil {
			return response, err
		}
		input.SetBodyBytes(body)
	}
	if err := openapi3filter.ValidateResponse(bare.Context(), input); err != nil {
		c.t.Errorf("%s %s: the answer %d is not as openapi.yaml says: %v", r.Method, r.URL.Path, response.StatusCode, err)
	}
	return response, nil
}
