package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/span"
)

// policies reads who goes next, and how often: attempts, delay, priority, and the
// keys that hold requests back.
func policies(h http.Header, sub *broker.Submission, maxDelay time.Duration, now time.Time) (err error) {
	if text := h.Get(api.HeaderMaxAttempts); text != "" {
		sub.MaxAttempts, err = strconv.Atoi(text)
		if err != nil || sub.MaxAttempts < 1 || sub.MaxAttempts > maxAttempts {
			return fail("invalid-option", "%s is %s; it must be a number from 1 to %d. Nothing was accepted.", api.HeaderMaxAttempts, quoted(text), maxAttempts)
		}
	}
	if text := h.Get(api.HeaderPriority); text != "" {
		sub.Priority = broker.Priority(text)
		if !slices.Contains(broker.Priorities, sub.Priority) {
			return fail("invalid-option", "%s is %s; it must be high, normal or low. Nothing was accepted.", api.HeaderPriority, quoted(text))
		}
	}
	if sub.Delay, err = delay(h, maxDelay, now); err != nil {
		return err
	}
	if sub.OrderingKey, err = key(h, api.HeaderOrderingKey); err != nil {
		return err
	}
	if sub.ConcurrencyKey, err = key(h, api.HeaderConcurrencyKey); err != nil {
		return err
	}
	if sub.OrderingKey != "" && sub.ConcurrencyKey != "" {
		return fail("invalid-option", "%s and %s are both given; an ordering key lets one request run at a time already, so give one of them. Nothing was accepted.", api.HeaderOrderingKey, api.HeaderConcurrencyKey)
	}
	return nil
}

// delay reads a duration, whole seconds, or the instant at which it is over: RFC
// 3339, or a date as HTTP writes it. One that is over is none.
func delay(h http.Header, most time.Duration, now time.Time) (time.Duration, error) {
	text := h.Get(api.HeaderDelay)
	if text == "" && len(h.Values(api.HeaderDelay)) == 0 {
		return 0, nil
	}
	d, ok := parseDuration(text)
	if !ok {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			at, err = http.ParseTime(text)
		}
		d, ok = max(0, at.Sub(now)), err == nil
	}
	if !ok || d > most {
		return 0, fail("invalid-option", "%s is %s; it must be a duration such as 10m, whole seconds, or a date such as %s, and at most %s from now. Nothing was accepted.", api.HeaderDelay, quoted(text), now.Add(time.Hour).UTC().Format(time.RFC3339), span.Text(most))
	}
	return d, nil
}

// key reads the name of a gate.
func key(h http.Header, name string) (string, error) {
	if len(h.Values(name)) == 0 {
		return "", nil
	}
	text := h.Get(name)
	if text == "" || len(text) > maxIdempotencyKey || strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", fail("invalid-option", "%s must be 1 to %d visible ASCII characters. Nothing was accepted.", name, maxIdempotencyKey)
	}
	return text, nil
}
