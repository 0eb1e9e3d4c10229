package contracttest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/contracttest"
)

// noted is a test whose failures are looked at, not failed by.
type noted struct {
	testing.TB
	errors []string
}

func (n *noted) Errorf(format string, args ...any) {
	n.errors = append(n.errors, fmt.Sprintf(format, args...))
}

// TestClientSeesWhatIsWrong: a check that can't fail checks nothing.
func TestClientSeesWhatIsWrong(t *testing.T) {
	const json, problem = "application/json", "application/problem+json"
	gone := `{"type":"/problems/gone","title":"The request is gone","status":410,"detail":"x"}`
	for name, c := range map[string]struct {
		method, path, kind, body string
		status                   int
		wrong                    string // "" where nothing is
	}{
		"as promised":              {"GET", "/v1/services", json, `{"services":[]}`, 200, ""},
		"by HEAD":                  {"HEAD", "/v1/services", json, "", 200, ""},
		"a problem":                {"GET", "/v1/requests/x", problem, gone, 410, ""},
		"a worker's status":        {"GET", "/v1/requests/x/reply", "text/plain", "short and stout", 418, ""},
		"raw bytes":                {"POST", "/v1/services/echo/requests", "application/x-thing", "\x00", 200, ""},
		"a header too few":         {"POST", "/v1/services/echo/requests", "text/plain", "no headers", 200, "missing"},
		"an unlisted status":       {"GET", "/v1/services", json, `{"services":[]}`, 201, "status is not supported"},
		"an unlisted path":         {"GET", "/v9", json, `{}`, 200, "does not have it"},
		"an unlisted method":       {"POST", "/v1/services", json, `{}`, 200, "does not have it"},
		"a member too few":         {"GET", "/v1/services", json, `{}`, 200, "services"},
		"a member too many":        {"GET", "/v1/services", json, `{"services":[],"x":1}`, 200, "x"},
		"another content type":     {"GET", "/v1/services", "text/csv", "", 200, "text/csv"},
		"a problem that is none":   {"GET", "/v1/requests/x", problem, `{"error":"x"}`, 410, "openapi.yaml"},
		"a service with no name":   {"POST", "/v1/services/NOT%20ONE/requests", "text/plain", "x", 200, "was taken"},
		"a reply that is a status": {"GET", "/v1/requests/x/reply", json, `{"x":1}`, 202, "openapi.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.kind)
				for _, name := range []string{"Location", "X-Correlation-ID", "Coatcheck-Outcome"} {
					if c.body != "no headers" {
						w.Header().Set(name, "succeeded")
					}
				}
				w.WriteHeader(c.status)
				w.Write([]byte(c.body))
			}))
			defer s.Close()
			n := &noted{TB: t}
			r, _ := http.NewRequestWithContext(t.Context(), c.method, s.URL+c.path, nil)
			response, err := contracttest.Client(n).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			got := strings.Join(n.errors, "\n")
			if (got == "") != (c.wrong == "") || !strings.Contains(got, c.wrong) {
				t.Errorf("want %q, got: %s", c.wrong, got)
			}
		})
	}
}
