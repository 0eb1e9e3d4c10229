// Package faults_test breaks the network, Redis, workers and gateways on purpose,
// and holds what comes of it to what is promised. Each fault is a named subtest with
// its criterion; its comment says which bug was planted to see it fail, where one was.
//
// `make faults` runs all of them, asserts times, and prints a line for each; the
// short ones run with the other tests. -seed repeats what was drawn. `make faults
// PLANT=1` plants the bugs, one after the other, and wants each fault to fail.
package faults_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/fleet"
)

var (
	full = flag.Bool("full", false, "all faults at full length, times asserted")
	seed = flag.Uint64("seed", 0, "repeats a run; 0 draws one")
)

// heal is within what time work flows again once a fault has ended.
const heal = 5 * time.Second

// Criteria that several faults share.
const (
	recovers = "each accepted request one outcome with its bytes, each refused one never run, never 404; work flows ≤ 5 s after it heals; ≤ 3 log lines/s a gateway"
	oneRun   = "one acceptance and one run a key, the same ID on every repeat"
)

type fault struct {
	name      string
	criterion string
	long      bool // for -full alone
	test      func(*round)
}

// faults are all there are.
var faults = []fault{
	{"black hole of 1 s", recovers, false, blackHole(time.Second)},
	{"black hole of 10 s", recovers, true, blackHole(10 * time.Second)},
	{"black hole of 60 s", recovers, true, blackHole(time.Minute)},
	{"connections reset", recovers, false, reset},
	{"connections half-open", recovers, false, halfOpen},
	{"a byte a second", recovers, true, trickle},
	{"replies cut in the middle", recovers, false, cut},
	{"answers of submits lost", oneRun, false, lost},
	{"FLUSHALL", forgets, false, flushed},
	{"restart without data", forgets, false, restarted},
	{"groups destroyed", keeps, false, ungrouped},
	{"stewards stopped past their lease", takesOver, true, stopped},
	{"path of the wake-ups killed", hears, true, unheard},
	{"Redis full", fits, true, filled},
	{"Redis set otherwise", watched, true, changed},
	{"poison", aside, false, poisoned},
	{"workers in a crash loop", holds, true, crashing},
	{"outcome races", firstRecorded, false, races},
	{"rolling restart", rolls, false, rolling},
	{"a gateway killed", falls, true, killed},
	{"partitions raised", "1 becomes 16: " + recovers + "; every stream is read ≤ 10 s after", false, raised},
	{"cluster: slots migrate", goesOn, true, migrating},
	{"cluster: a replica takes over", goesOn, true, failover},
	{"cluster: a master stands still for 10 s", goesOn, true, stands},
	{"cluster: a master is gone for 10 s", goesOn, true, bereaved},
}

func TestMain(m *testing.M) { fleet.Main(m, frail) } // gateways may be processes of their own

func TestFaults(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			if f.long && !*full {
				t.Skip("takes long: make faults")
			}
			r := &round{T: t, random: rand.New(rand.NewPCG(*seed, uint64(i)))}
			begun := time.Now()
			defer func() { // also of one that gave up
				mark := "✓"
				if t.Failed() {
					mark = "✗"
				}
				line := fmt.Sprintf("%s %s (seed %d, %.0f s)\n    wanted: %s\n    found:  %s", mark, f.name, *seed, time.Since(begun).Seconds(), f.criterion, r.found)
				if *full {
					fmt.Println(line)
				} else {
					t.Log(line)
				}
			}()
			f.test(r)
		})
	}
}

// round is one fault under test.
type round struct {
	*testing.T

	mu     sync.Mutex // guards the rest
	random *rand.Rand
	found  string // the figures
}

// draw is a number below n.
func (r *round) draw(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.random.IntN(n)
}

// pause is a time below most.
func (r *round) pause(most time.Duration) time.Duration { return time.Duration(r.draw(int(most))) }

// finds notes figures.
func (r *round) finds(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.found != "" {
		r.found += "; "
	}
	r.found += fmt.Sprintf(format, args...)
}

// within asserts a time, where times are asserted.
func (r *round) within(what string, took, most time.Duration) {
	r.Helper()
	r.finds("%s %v", what, took.Round(time.Millisecond))
	if *full && took > most {
		r.Errorf("%s: %v, want %v at most", what, took, most)
	}
}

// of is so much of what a full run does, for a short one.
func of(all, short int) int {
	if *full {
		return all
	}
	return short
}
