package upstream

import (
	"net/http"
	"strings"
	"time"
)

// cacheTTL is what the backend says of sharing its reply: below 0 where it forbids
// that, by Cache-Control (RFC 9111, section 5.2.2) or by Vary: *; else 0, and the
// operator has said for how long. A backend that allows it does not know by which
// headers this gateway tells requests apart, so that is not enough to begin with it.
func cacheTTL(h http.Header) time.Duration {
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache", "private":
			return -1
		case "max-age", "s-maxage":
			if strings.Trim(value, `" 0`) == "" {
				return -1
			}
		}
	}
	if strings.TrimSpace(h.Get("Vary")) == "*" {
		return -1
	}
	return 0
}
