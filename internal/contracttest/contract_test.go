package contracttest_test

import (
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/contracttest"
)

func TestDocumentAndItsExamples(t *testing.T) {
	d, err := contracttest.Document()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Validate(t.Context(), openapi3.EnableExamplesValidation()); err != nil {
		t.Errorf("examples: %v", err)
	}
}

// Every problem type has an example, is listed by some operation, and the
// document knows no other.
func TestProblemsAreTheRegistry(t *testing.T) {
	d, err := contracttest.Document()
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]int{}
	for _, item := range d.Paths.Map() {
		for _, operation := range item.Operations() {
			for status, response := range operation.Responses.Map() {
				media := response.Value.Content["application/problem+json"]
				if media == nil {
					continue
				}
				for slug := range media.Examples {
					kind, ok := api.ProblemNamed(slug)
					if !ok || !strings.HasPrefix(status, string([]byte{byte('0' + kind.Status/100)})) {
						t.Errorf("%s lists %s under %s", operation.OperationID, slug, status)
					}
					listed[slug]++
				}
			}
		}
	}
	for _, kind := range api.Problems {
		example := d.Components.Examples[kind.Slug]
		if example == nil {
			t.Errorf("%s has no example", kind.Slug)
			continue
		}
		value := example.Value.Value.(map[string]any)
		if value["status"] != float64(kind.Status) || value["type"] != api.ProblemPath+kind.Slug || value["title"] != kind.Title {
			t.Errorf("the example of %s differs from the registry: %v", kind.Slug, value)
		}
		if listed[kind.Slug] == 0 && kind.Slug != "method-not-allowed" {
			t.Errorf("no operation lists %s", kind.Slug)
		}
	}
}
