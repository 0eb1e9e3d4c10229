package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// What says who goes next: the last that fits, and the first that doesn't.
func TestPolicies(t *testing.T) {
	s := httpapi.New(httpapi.Options{})
	soon := time.Now().Add(time.Hour)
	for _, c := range []struct {
		header, value string
		fits          bool
	}{
		{"Coatcheck-Max-Attempts", "1", true},
		{"Coatcheck-Max-Attempts", "100", true},
		{"Coatcheck-Max-Attempts", "0", false},
		{"Coatcheck-Max-Attempts", "101", false},
		{"Coatcheck-Max-Attempts", "many", false},
		{"Coatcheck-Backoff", "10ms", true},
		{"Coatcheck-Backoff", "1h", true},
		{"Coatcheck-Backoff", "9ms", false},
		{"Coatcheck-Backoff", "3601", false},
		{"Coatcheck-Priority", "high", true},
		{"Coatcheck-Priority", "normal", true},
		{"Coatcheck-Priority", "low", true},
		{"Coatcheck-Priority", "High", false},
		{"Coatcheck-Priority", "urgent", false},
		{"Coatcheck-Delay", "0", true},
		{"Coatcheck-Delay", "168h", true},
		{"Coatcheck-Delay", "168h0m1s", false},
		{"Coatcheck-Delay", "-1s", false},
		{"Coatcheck-Delay", "tomorrow", false},
		{"Coatcheck-Delay", "", false},
		{"Coatcheck-Delay", soon.Format(time.RFC3339), true},
		{"Coatcheck-Delay", soon.UTC().Format(http.TimeFormat), true},
		{"Coatcheck-Delay", "2001-01-01T00:00:00Z", true}, // over
		{"Coatcheck-Delay", "2101-01-01T00:00:00Z", false},
		{"Coatcheck-Ordering-Key", "account-7", true},
		{"Coatcheck-Ordering-Key", strings.Repeat("x", 255), true},
		{"Coatcheck-Ordering-Key", strings.Repeat("x", 256), false},
		{"Coatcheck-Ordering-Key", "", false},
		{"Coatcheck-Ordering-Key", "two words", false},
		{"Coatcheck-Concurrency-Key", "a", true},
		{"Coatcheck-Concurrency-Key", "ü", false},
	} {
		_, err := httpapi.Submission(s, http.Header{c.header: {c.value}})
		if (err == nil) != c.fits {
			t.Errorf("%s: %.40q: %v", c.header, c.value, err)
		}
	}
	if _, err := httpapi.Submission(s, http.Header{"Coatcheck-Ordering-Key": {"a"}, "Coatcheck-Concurrency-Key": {"b"}}); err == nil {
		t.Error("both keys are taken")
	}
	sub, err := httpapi.Submission(s, http.Header{
		"Coatcheck-Max-Attempts": {"7"}, "Coatcheck-Backoff": {"2s"}, "Coatcheck-Priority": {"low"}, "Coatcheck-Delay": {soon.Format(time.RFC3339)}, "Coatcheck-Ordering-Key": {"k"},
	})
	if err != nil || sub.MaxAttempts != 7 || sub.Backoff != 2*time.Second || sub.Priority != broker.PriorityLow || sub.OrderingKey != "k" || sub.Delay < 58*time.Minute || sub.Delay > time.Hour {
		t.Errorf("%+v, %v", sub, err)
	}
}
