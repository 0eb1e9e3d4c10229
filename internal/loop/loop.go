// Package loop is what every loop of this project does between two rounds:
//
//	for loop.Rest(ctx, interval) {
//		if err := round(ctx); err != nil {
//			trouble.Warn("what is held up", "error", err)
//		}
//	}
//
// It rests for a while unless it is told to end, apart from the others who do the
// same at the same time, and while something that it needs is away it says so at most
// once a second, not once a try.
package loop

import (
	"context"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// saidEvery is how often one trouble is worth a line.
const saidEvery = time.Second

// Rest waits for d, and tells whether ctx still runs. It returns false at once
// where ctx ended before.
func Rest(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Chance is a number in [0,1) that differs by who asks and when: enough to keep a
// crowd apart, and the same again where a simulation has the same time.
func Chance(who string) float64 {
	name := fnv.New64a()
	name.Write([]byte(who))
	return rand.New(rand.NewPCG(name.Sum64(), uint64(time.Now().UnixNano()))).Float64()
}

// Jitter is a time below most, by Chance.
func Jitter(who string, most time.Duration) time.Duration {
	return time.Duration(Chance(who) * float64(most))
}

// Trouble logs what a loop meets again and again, at most once a second. Its
// zero value is of no use: give it a Log.
type Trouble struct {
	Log  *slog.Logger
	last atomic.Int64 // Unix ms of the last line
}

// Warn logs unless it has within the last second. It may be called by many.
func (t *Trouble) Warn(what string, args ...any) {
	now, last := time.Now().UnixMilli(), t.last.Load()
	if now-last >= saidEvery.Milliseconds() && t.last.CompareAndSwap(last, now) {
		t.Log.Warn(what, args...)
	}
}
