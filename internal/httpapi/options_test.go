package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// TestForwardedHeaders: what goes to a worker is a list, within limits, and
// nothing that was meant for the gateway or for proxies.
func TestForwardedHeaders(t *testing.T) {
	s := httpapi.New(httpapi.Options{})
	sub, err := httpapi.Submission(s, http.Header{
		"Accept": {"text/html", "*/*"}, "Accept-Language": {"de"}, "Content-Encoding": {"br"}, "Content-Language": {"en"},
		"Tracestate": {"a=1", "b=2"}, "User-Agent": {"curl"}, "X-Request-Id": {"7"}, "X-Thing": {"ü"},

		"Authorization": {"Bearer secret"}, "Cookie": {"a=b"}, "Idempotency-Key": {"k"}, "Prefer": {"wait=1"}, "Host": {"x"},
		"X-Forwarded-For": {"10.0.0.1"}, "X-Real-Ip": {"10.0.0.1"}, "X-Correlation-Id": {"mine"}, "Content-Length": {"1"},
		"Connection": {"close, x-hop", "X-Other-Hop"}, "X-Hop": {"1"}, "X-Other-Hop": {"1"}, "Te": {"trailers"}, "Accept-Encoding": {"gzip"},
	})
	want := map[string]string{
		"accept": "text/html, */*", "accept-language": "de", "content-encoding": "br", "content-language": "en",
		"tracestate": "a=1, b=2", "user-agent": "curl", "x-request-id": "7", "x-thing": "ü",
	}
	if diff := cmp.Diff(want, sub.Headers); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	for _, c := range []struct {
		count, size int
		fits        bool
	}{{32, 1, true}, {33, 1, false}, {1, 8192 - len("X-00"), true}, {1, 8192 - len("X-00") + 1, false}} {
		h := http.Header{}
		for n := range c.count {
			h.Set(fmt.Sprintf("X-%02d", n), strings.Repeat("v", c.size))
		}
		if _, err := httpapi.Submission(s, h); (err == nil) != c.fits {
			t.Errorf("%d headers of %d bytes: %v", c.count, c.size, err)
		}
	}
}

// TestLongValueIsCut: what the gateway cut off is not shown as if it had been sent.
func TestLongValueIsCut(t *testing.T) {
	_, err := httpapi.Submission(httpapi.New(httpapi.Options{}), http.Header{"Coatcheck-Priority": {strings.Repeat("x", 999)}})
	if want := `"` + strings.Repeat("x", 100) + `"…`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want it to have %s", err, want)
	}
}

// TestLimitsOfValues: the last that fits, and the first that doesn't.
func TestLimitsOfValues(t *testing.T) {
	s := httpapi.New(httpapi.Options{})
	for _, c := range []struct {
		name, value string
		fits        bool
	}{
		{"Coatcheck-Timeout", "100ms", true},
		{"Coatcheck-Timeout", "99.9ms", false},
		{"Coatcheck-Timeout", "86400", true},
		{"Coatcheck-Run-Timeout", "24h0m0.001s", false},
		{"Coatcheck-Start-Timeout", "24h", true},
		{"Coatcheck-Retention", "1", true},
		{"Coatcheck-Retention", "999ms", false},
		{"Coatcheck-Retention", "168h", true},
		{"Coatcheck-Retention", "604801", false},
		{"Idempotency-Key", strings.Repeat("k", 255), true},
		{"Idempotency-Key", strings.Repeat("k", 256), false},
		{"Content-Type", strings.Repeat("t", 256), true},
		{"Content-Type", strings.Repeat("t", 257), false},
		{"Coatcheck-Callback-Url", "https://example.com/", false}, // where callbacks are off
	} {
		if _, err := httpapi.Submission(s, http.Header{c.name: {c.value}}); (err == nil) != c.fits {
			t.Errorf("%s: %.40s: %v", c.name, c.value, err)
		}
	}
}
