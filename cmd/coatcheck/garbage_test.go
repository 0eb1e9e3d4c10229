package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// Little that lives lets garbage come together, much does not, and each collection looks
// again. Whoever sets the pace of the collector has it as they set it.
func TestPaceOfTheCollector(t *testing.T) {
	before := debug.SetGCPercent(usualPercent)
	defer debug.SetGCPercent(before)
	now := func() int {
		percent := debug.SetGCPercent(usualPercent)
		debug.SetGCPercent(percent)
		return percent
	}
	for _, set := range [][2]string{{"50", ""}, {"", "64MiB"}} {
		t.Setenv("GOGC", set[0])
		t.Setenv("GOMEMLIMIT", set[1])
		if paceCollector(); now() != usualPercent {
			t.Errorf("GOGC=%s GOMEMLIMIT=%s: %d percent", set[0], set[1], now())
		}
	}
	for live, want := range map[uint64]int{0: 1600, 4 << 20: 400, 16 << 20: 100, 1 << 30: 100} {
		if got := percentOf(live); got != want {
			t.Errorf("%d bytes live: %d percent, want %d", live, got, want)
		}
	}
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	paceCollector()
	hold := make([]byte, heapFloor)
	for now() != usualPercent { // the collector calls when it is done
		runtime.GC()
	}
	runtime.KeepAlive(hold)
	for now() == usualPercent {
		runtime.GC()
	}
}
