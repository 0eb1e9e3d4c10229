package httpapi_test

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// TestProblemsGolden: each problem as it goes over the wire.
func TestProblemsGolden(t *testing.T) {
	s := httpapi.New(httpapi.Options{Logger: slog.New(slog.DiscardHandler)})
	var all strings.Builder
	for _, kind := range append(api.Problems, api.ProblemType{Slug: "a-slug-that-is-not-there"}) { // a slip of ours is a 500
		w := httptest.NewRecorder()
		httpapi.Problem(s, kind.Slug).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		fmt.Fprintf(&all, "%s: %d\n", kind.Slug, w.Code)
		for _, name := range slices.Sorted(maps.Keys(w.Header())) {
			if name != "Content-Length" {
				fmt.Fprintf(&all, "%s: %s\n", name, strings.Join(w.Header()[name], " | "))
			}
		}
		fmt.Fprintf(&all, "\n%s\n\n", w.Body)
	}
	golden(t, "problems.golden", steady(all.String()))
}

// TestProblemPagesGolden: each type leads to its page.
func TestProblemPagesGolden(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		var all strings.Builder
		index := f.get("/problems")
		all.Write(index.body)
		all.WriteByte('\n')
		for _, kind := range api.Problems {
			if !strings.Contains(string(index.body), `"problems/`+kind.Slug+`"`) {
				t.Errorf("the index does not lead to %s", kind.Slug)
			}
			a := f.get(kind.New("").Type)
			if a.StatusCode != 200 || a.Header.Get("Content-Type") != "text/html; charset=utf-8" || a.Header.Get("X-Content-Type-Options") != "nosniff" ||
				!strings.HasPrefix(a.Header.Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("%s: %d %v", kind.Slug, a.StatusCode, a.Header)
			}
			all.Write(a.body)
			all.WriteByte('\n')
		}
		golden(t, "problem-pages.golden", all.String())
		f.get("/problems/x%2Fgone").problem(t, "no-such-route")
	})
}

// TestNothingLeaks: what Redis says, how keys are named, stays in the log.
func TestNothingLeaks(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		f.redis(false)
		for _, a := range []answer{f.post(echoRequests, "y"), f.get(d.Links.Self), f.get(d.Links.Reply), f.get(d.Links.Events), f.call("DELETE", d.Links.Self, nil), f.post(d.Links.Cancel, ""), f.get("/v1/services")} {
			a.problem(t, "unavailable")
			for _, secret := range []string{"secret", "LOADING", "cc:", "EVALSHA", ".go:", "goroutine"} {
				if strings.Contains(string(a.body), secret) {
					t.Errorf("%s", a.body)
				}
			}
		}
		if log := f.log.String(); !strings.Contains(log, "Redis refuses: LOADING") {
			t.Error("the log does not have the cause either")
		}
	})
}
