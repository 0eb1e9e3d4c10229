package upstream

import (
	"net/http"
	"testing"
)

// What a backend forbids is not shared; that it allows it is not enough.
func TestCacheTTL(t *testing.T) {
	for want, all := range map[bool][]http.Header{
		true: {
			{"Cache-Control": {"no-store"}},
			{"Cache-Control": {"public", "Private=\"x\""}},
			{"Cache-Control": {"max-age=0"}},
			{"Cache-Control": {"max-age=10, no-cache"}},
			{"Cache-Control": {`s-maxage="0"`}},
			{"Vary": {" * "}},
		},
		false: {{}, {"Cache-Control": {"public, max-age=60"}}, {"Cache-Control": {"max-age=10"}}, {"Vary": {"Accept"}}},
	} {
		for _, h := range all {
			if got := cacheTTL(h); (got < 0) != want || got > 0 {
				t.Errorf("%v: %v", h, got)
			}
		}
	}
}
