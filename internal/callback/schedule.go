package callback

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// delays are how long to wait after the first, second … failed attempt: eleven
// attempts over about a day, and before the window closes in which a record
// outlives its retention for a callback.
var delays = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 8 * time.Hour,
}

const (
	// spread is the most by which a delay is drawn out: what failed together
	// must not come back together.
	spread = 0.2
	// maxRetryAfter bounds what a receiver may ask for.
	maxRetryAfter = time.Hour
)

// next is how long to wait after an attempt (1 for the first) failed, or false
// where it was the last one. A receiver's Retry-After can only draw it out.
func next(attempt int, retryAfter time.Duration) (time.Duration, bool) {
	if attempt > len(delays) {
		return 0, false
	}
	wait := max(delays[max(attempt, 1)-1], min(retryAfter, maxRetryAfter))
	return wait + rand.N(time.Duration(float64(wait)*spread)), true
}

// retryAfter reads the header (RFC 9110, 10.2.3): seconds or a date; 0 for none.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(min(max(seconds, 0), int(maxRetryAfter/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
