package steward_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/steward"
)

// What each should have, by what all have: no more than one apart, and nothing moves
// without need.
func TestPart(t *testing.T) {
	for _, test := range []struct {
		partitions int
		have       map[string]int
		want       map[string]int
	}{
		{16, map[string]int{"a": 0}, map[string]int{"a": 16}},
		{16, map[string]int{"a": 16, "b": 0}, map[string]int{"a": 8, "b": 8}},
		{16, map[string]int{"a": 0, "b": 0, "c": 16}, map[string]int{"a": 5, "b": 5, "c": 6}},
		{16, map[string]int{"a": 5, "b": 6, "c": 5}, map[string]int{"a": 5, "b": 6, "c": 5}},
		{16, map[string]int{"a": 6, "b": 6, "c": 4}, map[string]int{"a": 6, "b": 5, "c": 5}},
		{1, map[string]int{"a": 0, "b": 1, "c": 0}, map[string]int{"a": 0, "b": 1, "c": 0}},
		{2, map[string]int{"a": 0, "b": 2, "c": 0}, map[string]int{"a": 1, "b": 1, "c": 0}},
	} {
		for name, want := range test.want {
			if got := steward.Part(name, test.have, test.partitions); got != want {
				t.Errorf("%s of %v should have %d of %d, want %d", name, test.have, got, test.partitions, want)
			}
		}
	}
}

// Three gateways have 5, 5 and 6 of 16 partitions, whoever came first; what one leaves
// or loses is shared out again. (Each should have as many as it can: then all but the
// first have none.)
func TestPartitionsAreShared(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		sixteen := func(o *broker.Options) { o.Partitions = 16 }
		proxy := r.Proxy(t)
		lost := startWith(t, proxy.URL, quiet, sixteen)
		all := []gateway{lost, startWith(t, r.URL, quiet, sixteen), startWith(t, r.URL, quiet, sixteen)}
		wantShares(t, all, 5, 5, 6)
		late := startWith(t, r.URL, quiet)
		wantShares(t, append(all, late), 4, 4, 4, 4)
		late.stop()
		wantShares(t, all, 5, 5, 6)
		proxy.Hold() // it is as good as killed
		wantShares(t, all[1:], 8, 8)
		proxy.Heal()
		wantShares(t, all, 5, 5, 6)
	})
}

// wantShares waits until every partition has one steward, and the gateways so many.
func wantShares(t *testing.T, all []gateway, want ...int) {
	t.Helper()
	begun := time.Now()
	until(t, fmt.Sprint("shares of ", want), func() bool {
		var have []int
		for _, g := range all {
			have = append(have, g.steward.Held())
		}
		slices.Sort(have)
		return slices.Equal(have, want)
	})
	t.Logf("%v after %v", want, time.Since(begun).Round(time.Millisecond))
}
