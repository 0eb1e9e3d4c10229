package faults_test

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/fleet"
)

var plant = flag.Bool("plant", false, "has each fault fail, by a bug that is planted")

// noClaims has workers claim no more after an error.
var noClaims = fleet.Plant{
	File: "api/worker/run.go",
	Good: "loop.Rest(ctx, troublePause+rand.N(troublePause)-time.Since(asked)) // what timed out has rested",
	Bad:  "_ = asked; return",
}

// keyAnew has a gateway make a new key of IDs where Redis lost the deployment's.
var keyAnew = fleet.Plant{
	File: "internal/broker/lua/configure.lua",
	Good: "for key in string.gmatch(ARGV[4], '[^,]+') do",
	Bad:  "for key in string.gmatch(c[1] and ARGV[4] or string.format('%064d', NOW), '[^,]+') do",
}

// plants are bugs that one of the faults shows each. Those of the faults that are not here
// were planted by hand, see their comments.
var plants = []struct {
	fault string
	fleet.Plant
}{
	{"black hole of 10 s", fleet.Plant{ // an unknown outcome is told as a refusal
		File: "internal/broker/commit.go", Good: "if c.ask.unknown {\n\t\t\tc.err = fmt", Bad: "if false {\n\t\t\tc.err = fmt",
	}},
	{"connections reset", noClaims},
	{"connections half-open", fleet.Plant{ // those that rest are not closed with the one that does not answer
		File: "internal/broker/suspects.go", Good: "if c.addr == addr && !c.awaited.Load() {", Bad: "if false {",
	}},
	{"a byte a second", noClaims},
	{"replies cut in the middle", noClaims},
	{"answers of submits lost", fleet.Plant{ // and their keys are not bound
		File: "internal/broker/lua/direct.lua", Good: "call('SET', o.binding, id .. ' ' .. o.fingerprint)", Bad: "",
	}},
	{"FLUSHALL", keyAnew},
	{"restart without data", fleet.Plant{ // who waits is not told that it is gone
		File: "internal/watch/wait.go", Good: "case errors.Is(err, broker.ErrGone):", Bad: "case false && errors.Is(err, broker.ErrGone):",
	}},
	{"groups destroyed", fleet.Plant{ // nobody makes them again
		File: "internal/broker/connect.go", Good: `return err != nil && (strings.Contains(err.Error(), "NOGROUP")`, Bad: `return false && (strings.Contains(err.Error(), "NOGROUP")`,
	}},
	{"stewards stopped past their lease", fleet.Plant{ // which has no end
		File: "internal/broker/lua/steward.lua", Good: "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])", Bad: "redis.call('SET', KEYS[1], ARGV[2])",
	}},
	{"path of the wake-ups killed", fleet.Plant{ // and nobody looks again by himself
		File: "internal/watch/watch.go", Good: "rereadEvery  = 5 * time.Second", Bad: "rereadEvery  = time.Hour",
	}},
	{"Redis full", fleet.Plant{ // which refuses to record timeouts
		File: "internal/broker/lua/decide.lua", Good: "even_when_full()", Bad: "",
	}},
	{"Redis full", fleet.Plant{ // of requests, and has no room for their replies
		File: "internal/broker/memory.go", Good: "memoryShare = 0.8 ", Bad: "memoryShare = 1.0 ",
	}},
	{"Redis set otherwise", fleet.Plant{ // and nobody looks
		File: "internal/broker/durability.go", Good: "inspectEvery   = 30 * time.Second", Bad: "inspectEvery   = time.Hour",
	}},
	{"poison", fleet.Plant{ // stays where it is
		File: "internal/broker/lua/moves.lua", Good: "local function disown(found, f)\n  drop(found)", Bad: "local function disown(found, f)\n  if not f then drop(found) end",
	}},
	{"workers in a crash loop", fleet.Plant{ // by a request that has no end of attempts
		File: "internal/broker/lua/outcome.lua", Good: "if r.attempt >= r.max then", Bad: "if false then",
	}},
	{"outcome races", fleet.Plant{ // a late reply counts
		File: "internal/broker/lua/succeed.lua", Good: "local late = NOW > latest and stream_ms(ARGV[at + 3]) > latest", Bad: "local late = false",
	}},
	{"rolling restart", fleet.Plant{ // that leaves partitions to nobody
		File: "internal/steward/steward.go", Good: "if err := s.broker.HandOver(handing, p); err != nil {", Bad: "if err := handing.Err(); err != nil {",
	}},
	{"a gateway killed", fleet.Plant{ // whose partitions nobody has for long
		File: "internal/steward/steward.go", Good: "lease        = 1500 * time.Millisecond", Bad: "lease        = 5 * time.Second",
	}},
	{"cluster: a master stands still for 10 s", fleet.Plant{ // and is taken for away for ever
		File: "internal/broker/health.go", Good: "b.redis.nodes.down.LoadAndDelete(m.name)", Bad: "b.redis.nodes.down.Load(m.name)",
	}},
	{"cluster: a master is gone for 10 s", fleet.Plant{ // and with it all are taken for gone
		File: "internal/broker/health.go", Good: "if down == len(all) {", Bad: "if down > 0 {",
	}},
}

// TestPlants has faults fail, each by its bug: `make faults PLANT=1`.
func TestPlants(t *testing.T) {
	for _, p := range plants {
		if !slices.ContainsFunc(faults, func(f fault) bool { return f.name == p.fault }) {
			t.Errorf("there is no fault %q", p.fault)
		}
		t.Run(p.fault, func(t *testing.T) {
			if !*plant {
				t.Skip("takes long: make faults PLANT=1")
			}
			begun := time.Now()
			name := regexp.QuoteMeta(strings.ReplaceAll(p.fault, " ", "_"))
			said, failed := p.Test(t, "-run", "^TestFaults$/^"+name+"$", "-args", "-full", fmt.Sprint("-seed=", *seed))
			mark, why := "✓", "nobody notices"
			if !failed {
				mark = "✗"
				t.Errorf("%s: nobody notices:\n%s", p.File, said)
			}
			if at := failure.FindString(said); at != "" {
				why = strings.TrimSpace(at)
			}
			fmt.Printf("%s %s, with a bug in %s (%.0f s)\n    %.200s\n", mark, p.fault, p.File, time.Since(begun).Seconds(), why)
		})
	}
}

// failure is the first line that says what went wrong.
var failure = regexp.MustCompile(`(?m)^ +\w+_test\.go:\d+: .*$`)
