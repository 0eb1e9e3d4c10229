package upstream

import (
	"net/http"
	"testing"
	"time"
)

// TestRetryAfter never comes out below 0, and takes no number that nobody means.
func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "0": 0, "-1": 0, "soon": 0, "10000000000": 0, "99999999999999999999": 0,
		"Sat, 01 Jan 2000 00:00:00 GMT": 0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
