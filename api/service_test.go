package api_test

import (
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/coatcheck/coatcheck/api"
)

func TestValidService(t *testing.T) {
	for name, want := range map[string]bool{
		"echo": true, "a": true, "0": true, "resize.v2_x-y": true, strings.Repeat("a", 64): true,
		"": false, "Echo": false, ".a": false, "-a": false, "_a": false, "a b": false, "a/b": false, "a\n": false, "\na": false,
		"é": false, "a}": false, "a{0}": false, "a:b": false, "a*": false, strings.Repeat("a", 65): false,
	} {
		if got := api.ValidService(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

func TestServicePatternIsDocumented(t *testing.T) {
	document, err := openapi3.NewLoader().LoadFromData(api.Contract)
	if err != nil {
		t.Fatal(err)
	}
	if got := document.Components.Parameters["ServiceName"].Value.Schema.Value.Pattern; got != api.ServicePattern {
		t.Errorf("openapi.yaml has the pattern %q, the code %q", got, api.ServicePattern)
	}
}
