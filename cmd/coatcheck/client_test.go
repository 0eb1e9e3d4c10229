package main

import (
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

// TestTailTellsWhen: a line has the time of what it tells.
func TestTailTellsWhen(t *testing.T) {
	at := func(second int) api.Time { return api.Time(time.Date(2026, 1, 2, 3, 4, second, 0, time.Local)) }
	for want, s := range map[string]api.Status{
		"03:04:01.000": {Status: api.Scheduled, CreatedAt: at(1)},
		"03:04:02.000": {Status: api.Queued, CreatedAt: at(1), QueuedAt: at(2)},
		"03:04:03.000": {Status: api.Running, CreatedAt: at(1), QueuedAt: at(2), StartedAt: at(3)},
		"03:04:04.000": {Status: api.Canceled, CreatedAt: at(1), QueuedAt: at(2), StartedAt: at(3), FinishedAt: at(4)},
	} {
		var out strings.Builder
		if err := (&target{output: "table"}).event(&out, client.Event{Kind: "status", Status: s}); err != nil || !strings.HasPrefix(out.String(), want) {
			t.Errorf("%s: %q, %v", s.Status, out.String(), err)
		}
	}
}
