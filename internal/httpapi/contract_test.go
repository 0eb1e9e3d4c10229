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

// TestRoutesAndContractAgree, both ways. The page and the inbox are no part of
// the contract: the one is for people, the other only of dev.
func TestRoutesAndContractAgree(t *testing.T) {
	nobody := http.NotFoundHandler()
	s := httpapi.New(httpapi.Options{Metrics: nobody, Page: nobody, Inbox: nobody})
	served := slices.DeleteFunc(routesOf(t, s), func(route string) bool {
		_, path, _ := strings.Cut(route, " ")
		return path == "/ui" || path == "/ui/*" || path == "/docs" || path == "/inbox/{name}"
	})
	doc, err := contracttest.Document()
	if err != nil {
		t.Fatal(err)
	}
	var promised []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if !strings.HasPrefix(path, "/inbox/") && path != "/ui/" && path != "/docs" {
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
