package httpapi_test

import (
	"strings"
	"testing"
)

// TestPathsAndMethods: what is not served is said to be, by name.
func TestPathsAndMethods(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		id := f.submit("x").CorrelationID
		request := "/v1/requests/" + id
		for _, c := range []struct{ method, path, slug, allow string }{
			{"GET", "/", "no-such-route", ""},
			{"GET", "/v1", "no-such-route", ""},
			{"GET", "/v2/services", "no-such-route", ""},
			{"GET", "/v1//services", "no-such-route", ""},
			{"GET", "/v1/../v1/services", "no-such-route", ""},
			{"GET", request + "/", "no-such-route", ""},
			{"GET", request + "/reply/", "no-such-route", ""},
			{"BREW", "/nowhere", "no-such-route", ""},
			{"GET", "/problems/nothing", "no-such-route", ""},
			{"GET", "/problems/", "no-such-route", ""},

			{"GET", echoRequests + "/..", "invalid-option", ""},
			{"POST", echoRequests + "/%2e%2E", "invalid-option", ""},
			{"POST", echoRequests + "/a%5c..", "invalid-option", ""},
			{"POST", echoRequests + "/a?" + strings.Repeat("x", 5000), "invalid-option", ""},
			{"OPTIONS", echoRequests + "/a", "method-not-allowed", "DELETE, GET, HEAD, PATCH, POST, PUT"},

			{"GET", echoRequests, "method-not-allowed", "POST"},
			{"OPTIONS", echoRequests, "method-not-allowed", "POST"},
			{"PUT", request, "method-not-allowed", "DELETE, GET, HEAD"},
			{"OPTIONS", request, "method-not-allowed", "DELETE, GET, HEAD"},
			{"BREW", request, "method-not-allowed", "DELETE, GET, HEAD"},
			{"TRACE", request, "method-not-allowed", "DELETE, GET, HEAD"},
			{"POST", request + "/events", "method-not-allowed", "GET, HEAD"},
			{"GET", request + "/cancel", "method-not-allowed", "POST"},
			{"GET", request + "/stream-ticket", "method-not-allowed", "POST"},
			{"POST", "/v1/services", "method-not-allowed", "GET, HEAD"},
			{"POST", "/v1/services/a%2Fb", "method-not-allowed", "GET, HEAD"},
			{"POST", "/livez", "method-not-allowed", "GET, HEAD"},
			{"GET", "/v1/services/echo/claims", "method-not-allowed", "POST"},
			{"GET", "/v1/claims/x/replies", "method-not-allowed", "POST"},
			{"POST", "/v1/claims", "no-such-route", ""},
			{"POST", "/v1/claims/x", "no-such-route", ""},

			{"POST", "/v1/services/ECHO/claims", "unknown-service", ""},
			{"POST", "/v1/services/%00%ff/claims", "unknown-service", ""},
			{"POST", "/v1/claims/x/replies", "unknown-claim", ""},
			{"POST", "/v1/claims/%0d%0aX-Evil:%20yes/replies", "unknown-claim", ""},
			{"POST", "/v1/claims/a%2Fb/replies", "unknown-claim", ""},

			{"GET", "/v1/services/a%2Fb", "unknown-service", ""},
			{"POST", "/v1/services/ECHO/requests", "unknown-service", ""},
			{"POST", "/v1/services/echo%20/requests", "unknown-service", ""},
			{"POST", "/v1/services/echo%0d%0aX-Evil:%20yes/requests", "unknown-service", ""},
			{"POST", "/v1/services/%00%ff/requests", "unknown-service", ""},
			{"POST", "/v1/services/" + strings.Repeat("x", 20_000) + "/requests", "unknown-service", ""},

			{"GET", request[:len(request)-1], "not-found", ""},
			{"GET", request + "0", "not-found", ""},
			{"GET", "/v1/requests/%7B" + id + "%7D", "not-found", ""},
			{"GET", "/v1/requests/urn:uuid:" + id, "not-found", ""},
			{"GET", "/v1/requests/" + strings.ReplaceAll(id, "-", ""), "not-found", ""},
			{"GET", "/v1/requests/" + id[:18] + "4" + id[19:], "not-found", ""}, // a version 4 UUID
			{"GET", "/v1/requests/" + strings.Repeat("a", 20_000), "not-found", ""},
			{"GET", "/v1/requests/..%2Fservices", "not-found", ""},
			{"GET", "/v1/requests/%00", "not-found", ""},
		} {
			a := f.call(c.method, c.path, nil)
			detail := a.problem(t, c.slug)
			if a.Header.Get("Allow") != c.allow || len(a.body) > 1000 || a.Header.Get("X-Evil") != "" {
				t.Errorf("%s %.60s: Allow %q, %.100s", c.method, c.path, a.Header.Get("Allow"), detail)
			}
		}
		f.accepted(1)
	})
}

// TestOneRequestManySpellings: an ID is the same in capitals and escaped, and
// is always answered in its canonical form.
func TestOneRequestManySpellings(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		id := d.CorrelationID
		for _, spelling := range []string{strings.ToUpper(id), "%30" + id[1:], strings.ReplaceAll(id, "-", "%2D")} {
			a := f.get("/v1/requests/" + spelling)
			if got := a.status(t); a.StatusCode != 200 || got.CorrelationID != id || got.Links != d.Links || a.Header.Get("X-Correlation-ID") != id {
				t.Errorf("%s: %d %s", spelling, a.StatusCode, a.body)
			}
		}
		if a := f.post("/v1/services/%65cho/requests", "y"); a.StatusCode != 202 || a.status(t).Service != "echo" {
			t.Errorf("an escaped service: %d %s", a.StatusCode, a.body)
		}
		if a := f.get("/problems/queue%2Dfull"); a.StatusCode != 200 {
			t.Errorf("an escaped problem: %d", a.StatusCode)
		}
	})
}

// TestHead is GET without the body, and opens no stream. The contract leaves it
// out: who knows GET knows HEAD.
func TestHead(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x", "Content-Type: text/plain")
		done := f.submit("y")
		f.echo()
		f.echo()
		for _, path := range []string{d.Links.Self, d.Links.Reply, done.Links.Self, "/v1/services", "/v1/services/echo", "/livez", "/readyz", "/openapi.yaml", "/asyncapi.yaml", "/problems/gone"} {
			head, get := f.call("HEAD", path, nil), f.get(path)
			if head.StatusCode != get.StatusCode || len(head.body) != 0 || head.Header.Get("Content-Type") != get.Header.Get("Content-Type") ||
				head.Header.Get("ETag") != get.Header.Get("ETag") {
				t.Errorf("HEAD %s: %d %v", path, head.StatusCode, head.Header)
			}
		}
		open := f.submit("z")
		if a := f.call("HEAD", open.Links.Events, nil); a.StatusCode != 200 || a.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("HEAD of a stream: %d %v", a.StatusCode, a.Header)
		}
		if a := f.call("HEAD", "/v1/requests/x", nil); a.StatusCode != 404 || len(a.body) != 0 {
			t.Errorf("HEAD of nothing: %d", a.StatusCode)
		}
	})
}

// TestQueriesThatCannotBeRead are refused, not passed over.
func TestQueriesThatCannotBeRead(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		for _, query := range []string{"?wait=%zz", "?wait=10s;x=1", "?%ff%=1", "?wait=%ff", "?wait=-1s", "?wait=soon", "?wait=1e9", "?wait=9223372036854775808"} {
			f.get(d.Links.Self+query).problem(t, "invalid-option")
		}
		for _, query := range []string{"?last_event_id=%zz", "?last_event_id=-1", "?last_event_id=1%0a2", "?last_event_id=0x1", "?last_event_id=1.0", "?last_event_id=9999999999"} {
			f.get(d.Links.Events+query).problem(t, "invalid-option")
		}
		for _, header := range []string{"a", "-1", "+1", " 1 1", "\xff", "99999999999999999999", strings.Repeat("1", 5000)} {
			f.get(d.Links.Events, "Last-Event-ID: "+header).problem(t, "invalid-option")
		}
	})
}
