package main

import "testing"

// Whoever sets the pace of the garbage collector has it as they set it.
func TestFloorIsForWhoSetsNoPace(t *testing.T) {
	defer func(before []byte) { floor = before }(floor)
	for _, test := range []struct {
		percent, limit string
		want           int
	}{{"", "", heapFloor}, {"50", "", 0}, {"", "64MiB", 0}} {
		t.Setenv("GOGC", test.percent)
		t.Setenv("GOMEMLIMIT", test.limit)
		floor = nil
		raiseFloor()
		if len(floor) != test.want {
			t.Errorf("GOGC=%s GOMEMLIMIT=%s: %d bytes, want %d", test.percent, test.limit, len(floor), test.want)
		}
	}
}
