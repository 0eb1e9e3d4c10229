package ledger_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

var minutes = flag.Float64("minutes", 0, "length of the soak; 0 for a few seconds of which nothing is measured")

const (
	soakRate   = 200                 // requests a second
	faulty     = 10                  // one of so many requests has something done to it
	struck     = 5 * time.Second     // between two faults of connections or workers
	sampled    = 2 * time.Second     // between two measurements
	level      = 3 * time.Minute     // until as many keys go as come: those of a batch stay for as long as it may be under way
	forgotten  = level + time.Minute // after the last outcome
	mostGrowth = 1.0                 // MiB a minute of memory
	mostDrift  = 0.1                 // of keys and goroutines over the whole time, as a part of their mean
)

const soakSettings = `
log: {level: error}
defaults: {lease: 2s, max_attempts: 20, timeout: 30s, retention: 30s}
services: {same: {coalesce: true, cache_ttl: 10s}}
callbacks: {secret: "` + secret + `", allow_cidrs: ["127.0.0.0/8"]}
`

// TestSoak has one gateway answer requests of all kinds, with faults all the time, and
// measures whether anything of it grows. `make soak` runs half an hour; which bugs it was
// seen to show says soakplants_test.go.
func TestSoak(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	lasts, rate := time.Duration(*minutes*float64(time.Minute)), soakRate
	if lasts == 0 {
		lasts, rate = 3*time.Second, soakRate/4
	}
	redis := redistest.Start(t)
	way := redis.Proxy(t)
	s := &soak{T: t, redis: redis, receiver: count(t), gateway: fleet.Gateway(t, way.URL, soakSettings)}
	s.client = client.New(s.gateway.URL, client.HTTP(web))
	var workers []*fleet.Process
	for range 3 {
		workers = append(workers, fleet.Worker(t, redis.URL))
	}
	ctx, stop := context.WithTimeout(t.Context(), lasts+10*time.Minute)
	defer stop()
	s.warm(ctx)
	before := s.measure()

	s.say("seed %d", *seed)
	random := rand.New(rand.NewPCG(*seed, 2))
	begun := time.Now()
	ticks, samples, faults, lines := time.NewTicker(5*time.Millisecond), time.NewTicker(sampled), time.NewTicker(min(struck, lasts/4)), time.NewTicker(time.Minute)
	n := 0
	for time.Since(begun) < lasts {
		select {
		case <-ticks.C:
			for due := int(time.Since(begun).Seconds() * float64(rate)); n < due; n++ {
				how := whole
				if random.IntN(faulty) == 0 {
					how = 1 + random.IntN(kindsOfFault)
				}
				s.begin(ctx, n, how)
			}
		case <-faults.C:
			if random.IntN(2) == 0 {
				way.Reset()
				s.cuts++
			} else {
				w := workers[random.IntN(len(workers))]
				w.Kill()
				w.Start()
				s.kills++
			}
		case <-samples.C:
			s.samples = append(s.samples, s.measure())
		case <-lines.C:
			s.say("minute %2.0f: %s", time.Since(begun).Minutes(), s.line())
		}
	}
	s.all.Wait()
	s.say("%s; %d connections cut at once, %d workers killed", s.line(), s.cuts, s.kills)
	if *minutes > 0 {
		s.judge(lasts)
	}
	s.empties(before)
}

// judge wants nothing to have grown, once it was warm and keys were at their level.
func (s *soak) judge(lasts time.Duration) {
	warm := min(lasts/2, max(lasts/5, level))
	var rest []sample
	for _, m := range s.samples {
		if m.at.Sub(s.samples[0].at) >= warm {
			rest = append(rest, m)
		}
	}
	over := rest[len(rest)-1].at.Sub(rest[0].at).Minutes()
	growth, mean := trend(rest, func(m sample) float64 { return m.memory })
	s.hold(growth <= mostGrowth, "memory of the gateway %.1f MiB, %+.3f MiB a minute (≤ %g)", mean, growth, mostGrowth)
	for name, of := range map[string]func(sample) float64{
		"keys in Redis": func(m sample) float64 { return m.keys }, "goroutines": func(m sample) float64 { return m.goroutines },
	} {
		slope, mean := trend(rest, of)
		s.hold(slope*over <= mostDrift*mean, "%s %.0f, %+.1f a minute, %+.1f %% in %.0f minutes (≤ %.0f %%)", name, mean, slope, 100*slope*over/mean, over, 100*mostDrift)
	}
}

// empties waits until Redis holds no more than before, and so does the gateway.
func (s *soak) empties(before sample) {
	limit := forgotten
	for begun := time.Now(); *minutes > 0; <-time.After(time.Second) {
		now := s.measure()
		if now.keys <= before.keys+mostKept {
			s.hold(true, "%.0f keys %.0f s after the last outcome; before the first request %.0f", now.keys, time.Since(begun).Seconds(), before.keys)
			return
		}
		if time.Since(begun) > limit {
			s.hold(false, "%.0f keys are left behind, before the first request there were %.0f: %v", now.keys, before.keys, s.kept())
			return
		}
	}
}

// hold says whether a criterion is met.
func (s *soak) hold(is bool, format string, args ...any) {
	mark := "✓"
	if !is {
		mark = "✗"
		s.Fail()
	}
	s.say(mark+" "+format, args...)
}

// say prints a line while it runs, where it is long.
func (s *soak) say(format string, args ...any) {
	if *minutes > 0 {
		fmt.Printf(format+"\n", args...)
	} else {
		s.Logf(format, args...)
	}
}
