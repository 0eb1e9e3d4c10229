// Package loop is what every loop of this project does between two rounds:
//
//	for loop.Rest(ctx, interval) {
//		if err := round(ctx); err != nil {
//			trouble.Warn("what is held up", "error", err)
//		}
//	}
//
// It rests for a while unless it is told to end, apart from the others who do the
// same at the same time, and while something that it needs is away it says so at once
// and then every ten seconds, not once a try.
package loop

import (
	"context"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	saidEvery = 10 * time.Second // how often one trouble is worth a line
	overAfter = 5 * time.Second  // without a Warn it was another one: a try takes 3 s where nothing answers
)

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

// Trouble logs what a loop meets again and again: at once, then at most every ten
// seconds, with how long it lasts. Its zero value is of no use: give it a Log.
type Trouble struct {
	Log *slog.Logger

	mu                sync.Mutex // guards the rest
	begun, said, last time.Time  // of the first Warn, the last line, the last Warn
}

// Warn logs unless it has within the last ten seconds. It may be called by many.
func (t *Trouble) Warn(what string, args ...any) {
	t.mu.Lock()
	now := time.Now()
	fresh := now.Sub(t.last) >= overAfter
	t.last = now
	if fresh {
		t.begun = now
	}
	says := fresh || now.Sub(t.said) >= saidEvery
	if says {
		t.said = now
	}
	lasts := now.Sub(t.begun)
	t.mu.Unlock()
	switch {
	case fresh:
		t.Log.Warn(what, args...)
	case says:
		t.Log.Warn(what, append(slices.Clip(args), "for", lasts.Round(time.Second).String())...)
	}
}
