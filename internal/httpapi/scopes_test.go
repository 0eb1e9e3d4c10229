package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/auth"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// needed is the scope of each route; "" is for everybody.
var needed = map[string]auth.Scope{
	"POST /v1/services/{service}/requests": auth.Submit,
	"GET /v1/requests/{id}":                auth.Read,
	"POST /v1/scatter":                     auth.Submit,

	"GET /v1/services/{service}/requests/*":    auth.Submit,
	"PUT /v1/services/{service}/requests/*":    auth.Submit,
	"POST /v1/services/{service}/requests/*":   auth.Submit,
	"PATCH /v1/services/{service}/requests/*":  auth.Submit,
	"DELETE /v1/services/{service}/requests/*": auth.Submit,

	"DELETE /v1/requests/{id}":                auth.Cancel,
	"GET /v1/requests/{id}/reply":             auth.Read,
	"GET /v1/requests/{id}/events":            auth.Read,
	"POST /v1/requests/{id}/cancel":           auth.Cancel,
	"POST /v1/requests/{id}/stream-ticket":    auth.Read,
	"GET /v1/services":                        auth.Read,
	"GET /v1/services/{service}":              auth.Read,
	"POST /v1/services/{service}/pause":       auth.Admin,
	"POST /v1/services/{service}/resume":      auth.Admin,
	"POST /v1/services/{service}/claims":      auth.Work,
	"POST /v1/claims/{token}/replies":         auth.Work,
	"GET /metrics":                            auth.Admin,
	"GET /livez":                              "",
	"GET /readyz":                             "",
	"GET /openapi.yaml":                       "",
	"GET /asyncapi.yaml":                      "",
	"GET /problems":                           "",
	"GET /problems/{slug}":                    "",
	"GET /v1/services/{service}/openapi.json": auth.Read,
	"GET /v1/requests":                        auth.Read,
	"GET /v1/workers":                         auth.Read,
	"POST /v1/workers/{name}/drain":           auth.Admin,
	"POST /v1/requests/{id}/retry":            auth.Submit,
	"GET /v1/dead-letters":                    auth.Read,
	"DELETE /v1/dead-letters":                 auth.Admin,
	"POST /v1/redrives":                       auth.Admin,
	"GET /v1/redrives/{id}":                   auth.Admin,
	"POST /v1/redrives/{id}/cancel":           auth.Admin,
	"GET /v1/requests/{id}/replies":           auth.Read,
	"POST /v1/batches":                        auth.Submit,
	"GET /v1/batches/{id}":                    auth.Read,
	"GET /v1/batches/{id}/events":             auth.Read,
	"POST /v1/batches/{id}/cancel":            auth.Cancel,
}

// withKeys has a key for each scope of the tenant acme, named like the scope,
// one of acme that may do nothing, and one of globex that may do everything.
func withKeys(o *httpapi.Options) {
	o.Keys = auth.Keys{
		{Name: "nothing", Hash: auth.Hash("nothing"), Tenant: "acme"},
		{Name: "all", Hash: auth.Hash("all"), Tenant: "acme", Scopes: auth.Scopes},
		{Name: "globex", Hash: auth.Hash("globex"), Tenant: "globex", Scopes: auth.Scopes},
	}
	for _, s := range auth.Scopes {
		o.Keys = append(o.Keys, auth.Key{Name: string(s), Hash: auth.Hash(string(s)), Tenant: "acme", Scopes: []auth.Scope{s}})
	}
	o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "text/plain") })
}

func as(key string) string { return "Authorization: Bearer " + key }

// routesOf are all routes of a gateway, as "METHOD /path".
func routesOf(t *testing.T, s *httpapi.Server) (routes []string) {
	t.Helper()
	err := chi.Walk(httpapi.Routes(s), func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		routes = append(routes, method+" "+path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

// TestEveryRouteNeedsItsScope and no other; a new route has no place to hide.
func TestEveryRouteNeedsItsScope(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		routes := routesOf(t, f.server)
		if len(routes) != len(needed) {
			t.Errorf("there are %d routes, and scopes of %d", len(routes), len(needed))
		}
		for _, route := range routes {
			scope, known := needed[route]
			if !known {
				t.Errorf("nobody says what %s needs", route)
			}
			method, path, _ := strings.Cut(route, " ")
			f.call("POST", "/v1/services/echo/resume", nil, as("admin")) // the route before may have paused it
			d := f.submit("x", as("submit"))
			token := f.claim().Token
			f.post(d.Links.Cancel, "", as("cancel")) // or its stream would not end
			id := d.CorrelationID
			if strings.Contains(path, "/batches/") {
				b := f.batch(`[{"service":"echo"}]`, as("submit"))
				f.post(b.Links.Cancel, "", as("cancel"))
				id = b.BatchID
			}
			fill := strings.NewReplacer("{service}", "echo", "{slug}", "gone", "{id}", id, "{token}", token, "{name}", "w1")
			f.announce("w1", "echo")
			call := func(key string) answer { // only the one with the scope may change anything
				if key == "" {
					return f.call(method, fill.Replace(path), nil)
				}
				return f.call(method, fill.Replace(path), nil, key)
			}
			if scope == "" {
				if a := call(""); a.StatusCode != 200 {
					t.Errorf("%s is for everybody: %d", route, a.StatusCode)
				}
				continue
			}
			for _, key := range []string{"", as("unknown"), as(""), as(auth.Hash("all")), "Authorization: Basic YWxsOmFsbA==", "Authorization: all", "X-Api-Key: all"} {
				if a := call(key); a.StatusCode != 401 || a.Header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s with %q: %d", route, key, a.StatusCode)
				} else {
					a.problem(t, "unauthenticated")
				}
			}
			for _, other := range append(auth.Scopes, "nothing") {
				a := call(as(string(other)))
				if other == scope {
					if a.StatusCode == 401 || a.StatusCode == 403 || a.StatusCode == 404 {
						t.Errorf("%s with its scope: %d %s", route, a.StatusCode, a.body)
					}
				} else if detail := a.problem(t, "forbidden"); !strings.Contains(detail, `"`+string(scope)+`"`) {
					t.Errorf("%s with %s: %s", route, other, detail)
				}
			}
		}
	}, withKeys)
}

// TestForeignLooksNeverIssued: another tenant's request, one of another
// deployment, and no ID at all get the same bytes, headers included.
func TestForeignLooksNeverIssued(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		mine := f.submit("x", as("all")).CorrelationID
		done := f.submit("y", as("all")).CorrelationID
		f.call("DELETE", "/v1/requests/"+done, nil, as("all"))
		strange := correlation.Keyring{correlation.NewKey()}.Mint(time.Now(), 0, "globex").String()
		for _, route := range routesOf(t, f.server) {
			method, path, _ := strings.Cut(route, " ")
			if !strings.Contains(path, "{id}") {
				continue
			}
			var first answer
			for i, id := range []string{"xyz", strange, mine, strings.ToUpper(mine), done} {
				a := f.call(method, strings.Replace(path, "{id}", id, 1), nil, as("globex"))
				a.problem(t, "not-found")
				a.Header.Del("Date")
				if i == 0 {
					first = a
				}
				if diff := cmp.Diff(first.Header, a.Header); diff != "" || string(a.body) != string(first.body) {
					t.Errorf("%s of %s differs: %s%s", route, id, a.body, diff)
				}
			}
		}
		if s := f.get("/v1/requests/"+mine, as("read")).status(t); s.Status != "queued" {
			t.Errorf("somebody touched it: %s", s.Status)
		}
		f.get("/v1/requests/"+done, as("read")).problem(t, "gone")
	}, withKeys)
}

// TestKeysAreTheTenants: what an idempotency key binds is no business of others.
func TestKeysAreTheTenants(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		acme := f.submit("x", as("all"), "Idempotency-Key: k")
		globex := f.post(echoRequests, "y", as("globex"), "Idempotency-Key: k")
		if globex.StatusCode != 202 || globex.Header.Get("Idempotency-Replayed") != "" || globex.status(t).CorrelationID == acme.CorrelationID {
			t.Errorf("%d %v %s", globex.StatusCode, globex.Header, globex.body)
		}
	}, withKeys)
}
