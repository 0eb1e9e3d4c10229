package httpapi_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// contract is openapi.yaml, ready to hold calls against.
func contract(t testing.TB) routers.Router {
	t.Helper()
	router, err := parsed()
	if err != nil {
		t.Fatalf("read the contract: %v", err)
	}
	return router
}

var parsed = sync.OnceValues(func() (routers.Router, error) {
	for _, opaque := range []string{"text/event-stream", "application/yaml", "text/html"} {
		openapi3filter.RegisterBodyDecoder(opaque, func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
			text, err := io.ReadAll(body)
			return string(text), err
		})
	}
	doc, err := openapi3.NewLoader().LoadFromData(api.Contract)
	if err != nil {
		return nil, err
	}
	doc.Servers = nil // any
	return legacy.NewRouter(doc)
})

// offContract marks a call whose answer no contract lists, such as a status that
// a worker chose: a test says so.
const offContract = "Off-Contract: yes"

// checked is a transport that holds every call and every answer against the
// contract. It leaves opaque bodies and streams alone.
type checked struct {
	t    *testing.T
	next http.RoundTripper
}

func (c *checked) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if off := r.Header.Get("Off-Contract"); off != "" {
		return response, nil
	}
	route, parameters, err := contract(c.t).FindRoute(r)
	if err != nil {
		if response.StatusCode != http.StatusNotFound && response.StatusCode != http.StatusMethodNotAllowed {
			c.t.Errorf("%s %s is %d, and the contract does not have it: %v", r.Method, r.URL.Path, response.StatusCode, err)
		}
		return response, nil
	}
	kind := response.Header.Get("Content-Type")
	opaque := route.Operation.OperationID == "reply" || route.Operation.OperationID == "submit"
	opaque = opaque && kind != "application/json" && kind != "application/problem+json"
	opaque = opaque || strings.HasPrefix(kind, "text/event-stream")
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: r, PathParams: parameters, Route: route,
			Options: &openapi3filter.Options{ExcludeRequestBody: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
		},
		Status: response.StatusCode, Header: response.Header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: opaque},
	}
	if !opaque {
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return nil, err
		}
		response.Body = io.NopCloser(bytes.NewReader(body))
		input.SetBodyBytes(body)
	}
	if err := openapi3filter.ValidateRequest(context.Background(), input.RequestValidationInput); err != nil && response.StatusCode < 400 {
		c.t.Errorf("%s %s was taken against the contract: %v", r.Method, r.URL.Path, err)
	}
	if err := openapi3filter.ValidateResponse(context.Background(), input); err != nil {
		c.t.Errorf("the answer %d to %s %s breaks the contract: %v", response.StatusCode, r.Method, r.URL.Path, err)
	}
	return response, nil
}

// TestRoutesAndContractAgree, both ways. The page and the inbox are no part of
// the contract: the one is for people, the other only of dev.
func TestRoutesAndContractAgree(t *testing.T) {
	nobody := http.NotFoundHandler()
	s := httpapi.New(httpapi.Options{Metrics: nobody, Page: nobody, Inbox: nobody})
	var served []string
	err := chi.Walk(httpapi.Routes(s), func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if path != "/ui" && path != "/ui/*" && path != "/inbox/{name}" {
			served = append(served, method+" "+path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(api.Contract)
	if err != nil {
		t.Fatal(err)
	}
	var promised []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if !strings.HasPrefix(path, "/inbox/") && path != "/ui/" {
				promised = append(promised, method+" "+path)
			}
		}
	}
	slices.Sort(served)
	slices.Sort(promised)
	if diff := cmp.Diff(promised, served); diff != "" {
		t.Errorf("contract (-) and routes (+) differ:\n%s", diff)
	}
}
