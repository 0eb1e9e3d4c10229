package broker_test

import (
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// TestEventLimits: beyond its count or its bytes the oldest replies of a request
// go, by the limits of its service, and the latest always stays.
func TestEventLimits(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Services = map[string]broker.ServiceConfig{"echo": {MaxEvents: 3, MaxEventBytes: 400}, "wide": {}}
		})
		for _, c := range []struct {
			service      string
			sizes        []int
			first, count int
		}{
			{"echo", []int{1, 1, 1}, 1, 3},
			{"echo", []int{1, 1, 1, 1, 1}, 3, 3},
			{"echo", []int{150, 150, 150}, 2, 2},
			{"echo", []int{1, 1, 1000}, 3, 1},
			{"echo", []int{1000, 1, 1}, 2, 2},
			{"wide", []int{1000, 1000, 1000, 1000, 1000}, 1, 5},
		} {
			r := submit(t, b, "x", func(s *broker.Submission) { s.Service = c.service })
			got, err := b.Claim(t.Context(), "w1", []string{c.service}, 1, 1e9)
			if err != nil || len(got) != 1 {
				t.Fatal(got, err)
			}
			for _, size := range c.sizes {
				send(t, b, got[0], broker.WorkerReply{Type: "partial", Body: []byte(strings.Repeat("x", size))})
			}
			settle(t, b)
			_, events, first, err := b.Replies(t.Context(), r.ID, 0, 100)
			if err != nil || first != c.first || len(events) != c.count || len(events[len(events)-1].Body) != c.sizes[len(c.sizes)-1] {
				t.Errorf("%s %v: %d are kept from %d on, want %d from %d; %v", c.service, c.sizes, len(events), first, c.count, c.first, err)
			}
			send(t, b, got[0], broker.WorkerReply{Type: "final"})
			settle(t, b)
		}
	})
}
