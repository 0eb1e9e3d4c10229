package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapFloor is how much garbage is let come together before it is collected, where that
// is more than what lives. What a gateway holds between two calls is so little that the
// collector would run twenty times a second under load, for a seventh of the gateway's
// CPU time.
const heapFloor = 16 << 20

// heapSample is how much is allocated, in bytes, from one allocation that a heap profile
// has to the next. Go's own 512 KiB cost a gateway under load a hundredth of its CPU time,
// since each has the stack walked.
const heapSample = 4 << 20

// By itself Go collects when there is as much garbage as there is alive: 100 percent.
const usualPercent = 100

// paceCollector keeps to heapFloor from now on, unless the operator sets the pace.
func paceCollector() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		(&pace{percent: usualPercent}).adapt()
	}
}

// pace is what the collector was told last. It is itself garbage between two
// collections, so each of them has it adapt.
type pace struct {
	percent int
	_       [16]byte // so small a thing shares its memory with others, and may live as long as they do
}

func (p *pace) adapt() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	if now := percentOf(live[0].Value.Uint64()); now < p.percent || now > p.percent+p.percent/8 { // to tell it stops the world
		p.percent = now
		debug.SetGCPercent(now)
	}
	runtime.SetFinalizer(&pace{percent: p.percent}, (*pace).adapt)
}

// percentOf is how much garbage, in percent of what lives, heapFloor allows.
func percentOf(live uint64) int {
	return max(usualPercent, int(heapFloor*100/max(live, 1<<20)))
}
