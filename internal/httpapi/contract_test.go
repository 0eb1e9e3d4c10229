package httpapi_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/contracttest"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// TestRoutesAndContractAgree, both ways. The pages are no part of the contract:
// they are for people.
func TestRoutesAndContractAgree(t *testing.T) {
	nobody := http.NotFoundHandler()
	s := httpapi.New(httpapi.Options{Metrics: nobody, Page: nobody, Inbox: nobody})
	served := slices.DeleteFunc(routesOf(t, s), func(route string) bool {
		_, path, _ := strings.Cut(route, " ")
		return path == "/" || path == "/ui" || path == "/ui/*" || path == "/docs"
	})
	for i, route := range served { // OpenAPI has no parameter that takes more than one segment
		served[i] = strings.Replace(route, "/requests/*", "/requests/{path}", 1)
	}
	doc, err := contracttest.Document()
	if err != nil {
		t.Fatal(err)
	}
	var promised []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			promised = append(promised, method+" "+path)
		}
	}
	slices.Sort(served)
	slices.Sort(promised)
	if diff := cmp.Diff(promised, served); diff != "" {
		t.Errorf("contract (-) and routes (+) differ:\n%s", diff)
	}
}
