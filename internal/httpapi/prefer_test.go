package httpapi_test

import (
	"testing"

	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// TestPreferences as RFC 7240 writes them; what can't be read is no error.
func TestPreferences(t *testing.T) {
	for _, c := range []struct {
		line, more    string
		wait, applied string
	}{
		{"", "", "0s", ""},
		{"respond-async", "", "0s", "respond-async"},
		{"wait=5", "", "5s", "wait=5"},
		{"Respond-Async, WAIT=5", "", "5s", "respond-async, wait=5"},
		{"wait=5", "respond-async", "5s", "respond-async, wait=5"},
		{"wait = 5 ; strict=yes", "", "5s", "wait=5"},
		{`wait="5"`, "", "5s", "wait=5"},
		{"wait=3, wait=9", "wait=10", "3s", "wait=3"},
		{"wait=soon, wait=9", "", "9s", "wait=9"},
		{"wait=600", "", "1m0s", "wait=60"},
		{"wait=0", "", "0s", ""},
		{"wait=-1", "wait=1.5", "0s", ""},
		{"return=minimal, handling=lenient", "return=representation", "0s", "return=minimal"},
		{`foo="a, wait=3", wait=4`, "", "4s", "wait=4"},
		{`foo="a\", wait=3", wait=4`, "", "4s", "wait=4"},
		{`foo="never ends, wait=3`, "", "0s", ""},
		{"respond-async=no", ",;=,", "0s", ""},
	} {
		if wait, applied := httpapi.Preferences(c.line, c.more); wait != c.wait || applied != c.applied {
			t.Errorf("%q %q: %s, %q", c.line, c.more, wait, applied)
		}
	}
}
