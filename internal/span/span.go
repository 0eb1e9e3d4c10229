// Package span writes durations for people.
package span

import (
	"strings"
	"time"
)

// Text is a duration as one would type it: 24h, not 24h0m0s.
func Text(d time.Duration) string {
	text := d.String()
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return text
}
