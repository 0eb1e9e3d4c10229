package httpapi

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

// preference is what a client prefers (RFC 7240); what is unknown or malformed
// is ignored, as section 2 asks for.
type preference struct {
	wait    time.Duration
	waits   bool // a valid wait was given
	applied string
}

func preferences(h http.Header) preference {
	var p preference
	for _, line := range h.Values(api.HeaderPrefer) {
		for part := range strings.SplitSeq(line, ",") {
			first, _, _ := strings.Cut(part, ";") // parameters of a preference: none are known
			name, value, _ := strings.Cut(strings.TrimSpace(first), "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") || p.waits { // the first one counts
				continue
			}
			value = strings.Trim(strings.TrimSpace(value), `"`)
			seconds, err := strconv.Atoi(value)
			if err != nil || seconds < 0 {
				continue
			}
			p.wait, p.waits = min(time.Duration(min(seconds, 3600))*time.Second, longestWait), true
			p.applied = "wait=" + strconv.Itoa(int(p.wait.Seconds()))
		}
	}
	return p
}

// waitOf reads how long a status call may rest: ?wait= over Prefer.
func waitOf(r *http.Request) (preference, error) {
	text := r.URL.Query().Get("wait")
	if text == "" {
		return preferences(r.Header), nil
	}
	d, ok := parseDuration(text)
	if !ok {
		return preference{}, fail("invalid-option", "wait is %q; it must be a duration such as 10s, or seconds. The request is not affected.", text)
	}
	return preference{wait: min(d, longestWait), waits: true}, nil
}
