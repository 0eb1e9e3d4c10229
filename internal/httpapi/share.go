package httpapi

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// longestAge is as old as a cached reply can be.
const longestAge = 365 * 24 * time.Hour

// cacheControl reads what RFC 9111, section 5.2.1, has a client say. What is not
// known is ignored, as section 5.2 asks for; an age that can't be read is none that
// any reply could have.
func cacheControl(h http.Header) (c broker.CacheControl) {
	for _, line := range h.Values("Cache-Control") {
		for _, part := range splitQuoted(line, ',') {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "no-store":
				c.NoStore = true
			case "no-cache":
				c.NoCache = true
			case "only-if-cached":
				c.OnlyIfCached = true
			case "max-age":
				seconds, err := strconv.ParseUint(unquoted(strings.TrimSpace(value)), 10, 63)
				age := time.Duration(min(seconds, uint64(longestAge/time.Second))) * time.Second
				if err != nil || age == 0 {
					c.NoCache = true
				} else if c.MaxAge == 0 || age < c.MaxAge {
					c.MaxAge = age
				}
			}
		}
	}
	return c
}

// cacheHeaders say how a request got its reply, where its service shares them.
func cacheHeaders(h http.Header, r broker.Record) {
	if r.Cache == "" {
		return
	}
	h.Set(api.HeaderCache, r.Cache)
	if !r.CachedAt.IsZero() {
		h.Set("Age", strconv.Itoa(max(0, int(time.Since(r.CachedAt)/time.Second))))
	}
}
