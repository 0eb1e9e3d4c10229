// Package scale_test measures how the cost of a call grows: with the number of
// records, of services, of partitions, and of those who wait.
//
// `make scale` prints a table for each of them: µs of Redis' CPU time and commands
// (those inside of scripts counted) of one submit, settle and status, what they take
// their caller, and what a second of upkeep costs. What a table is about must not make
// a call dearer: each has its bound, and ✓ or ✗.
//
// The broker is called as a gateway calls it, by 32 callers at once, on a redis-server
// of its own. Nothing else runs meanwhile: upkeep is called by hand, round by round.
// Counted are Redis' own figures, so that what else the machine does weighs little. How
// fast its core is, of a shared machine, changes within a run: each bound of CPU time is
// of what a script without data takes at the same time, the floor.
// Calls that come together share scripts within a service of a partition: with more of
// these there are fewer to share with, so the bound there is that of a call alone.
//
// The short form with few of everything runs with the other tests: one caller, of whom
// nothing is shared, and bounds of commands alone.
package scale_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
)

var (
	full = flag.Bool("full", false, "up to a million records, 1,000 services, 64 partitions and 10,000 waiters; CPU time is bounded")
	rows = flag.String("rows", "records,services,partitions,waiters", "which tables, separated by commas")
	most = flag.Int("most", 1_000_000, "the largest number of anything")
)

// upkeepMost is what upkeep may take of a core of Redis.
const upkeepMost = 0.1

// dimension is what one table is about.
type dimension struct {
	name        string
	short, full []int
	at          func(*testing.T) func(n int) line // makes a site, which is then measured at n after n

	cpu, commands float64 // most of a call with the largest number, by that with the least
}

var dimensions = []dimension{
	{"records", []int{200, 1000}, []int{1000, 10_000, 100_000, 1_000_000}, records, 2, 1.2}, // the tables of a million fit into no cache, those of a thousand do
	{"services", []int{1, 20}, []int{1, 10, 100, 1000}, services, 2.5, 3.5},                 // each has a stream: of 32 calls together, those to one share what it costs by itself
	{"partitions", []int{1, 4}, []int{1, 4, 16, 64}, partitions, 2, 2.5},
	{"waiters", []int{10, 100}, []int{10, 100, 1000, 10_000}, waiters, 2, 1.2}, // as above: what waits is looked at all the while
}

// line is what was measured at one number.
type line struct {
	n                      int
	submit, settle, status cost
	list, sample           cost
	floor                  float64 // µs of Redis' CPU time of a script that has nothing to do with any of it
	upkeep                 float64 // µs of Redis' CPU time a second, of all partitions
	note                   string
}

func TestScale(t *testing.T) {
	for _, d := range dimensions {
		if !strings.Contains(","+*rows+",", ","+d.name+",") {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			steps := d.short
			if *full {
				steps = d.full
			}
			begun, measure := time.Now(), d.at(t)
			var lines []line
			for _, n := range steps {
				if n <= *most {
					lines = append(lines, measure(n))
				}
			}
			report(t, d, lines, time.Since(begun))
		})
	}
}

// report prints a table and its bounds.
func report(t *testing.T, d dimension, lines []line, took time.Duration) {
	t.Helper()
	name := d.name
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%s\tsubmit: µs\tcommands\tms\tsettle: µs\tcommands\tstatus: µs\tcommands\tms\tlist: µs\tqueue: µs\tfloor: µs\tupkeep: µs/s\t\t\n", name)
	for _, l := range lines {
		fmt.Fprintf(w, "%d\t%.1f\t%.1f\t%.2f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\t%s\t\n", l.n, l.submit.cpu, l.submit.commands, l.submit.p50,
			l.settle.cpu, l.settle.commands, l.status.cpu, l.status.commands, l.status.p50, l.list.cpu, l.sample.cpu, l.floor, l.upkeep, l.note)
	}
	_ = w.Flush()
	first, last := lines[0], lines[len(lines)-1]
	counted := *full || name != "waiters" // all that is waited for is read every five seconds: much beside a hundred calls
	for _, c := range []struct {
		call        string
		first, last cost
	}{{"submit", first.submit, last.submit}, {"settle", first.settle, last.settle}, {"status", first.status, last.status}, {"list", first.list, last.list}, {"look at a queue", first.sample, last.sample}} {
		if (c.call == "list" || c.call == "look at a queue") && name == "partitions" {
			continue // it asks each of them, for a page at most, or for counts
		}
		bound(t, &text, fmt.Sprintf("commands of a %s with %d %s, to those with %d", c.call, last.n, name, first.n), c.last.commands/c.first.commands, d.commands, counted)
		bound(t, &text, fmt.Sprintf("CPU time of a %s with %d %s, to that with %d, by the floors", c.call, last.n, name, first.n), c.last.cpu/last.floor/(c.first.cpu/first.floor), d.cpu, *full)
	}
	bound(t, &text, fmt.Sprintf("CPU time of a second of upkeep with %d %s, of that of a core", last.n, name), last.upkeep/1e6, upkeepMost, *full)
	fmt.Fprintf(&text, "took %.0f s\n", took.Seconds())
	if *full {
		fmt.Fprintln(os.Stdout, text.String())
	} else {
		t.Log("\n" + text.String())
	}
}

// bound says whether a figure is at most what it may be, where that is asked for.
func bound(t *testing.T, text *strings.Builder, what string, value, most float64, asked bool) {
	t.Helper()
	mark := "✓"
	if value > most {
		mark = "✗"
	}
	fmt.Fprintf(text, "%s %s: %.2f, want %.2f at most\n", mark, what, value, most)
	if asked && value > most {
		t.Errorf("%s: %.2f, want %.2f at most", what, value, most)
	}
}

// records has ever more requests, half of them pending, half answered, in one
// partition.
func records(t *testing.T) func(int) line {
	s := open(t, broker.Options{}, "echo")
	have := 0
	return func(n int) line {
		begun := time.Now()
		s.fill((n - have) / 2)
		have = n
		l := s.measure(n)
		l.note = fmt.Sprintf("%.0f MiB, filled in %.0f s", s.mebibytes(), time.Since(begun).Seconds())
		return l
	}
}

// services has ever more services, called in turn.
func services(t *testing.T) func(int) line {
	return func(n int) line {
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf("service-%d", i)
		}
		return open(t, broker.Options{}, names...).measure(n)
	}
}

// partitions has ever more of them, and ten services.
func partitions(t *testing.T) func(int) line {
	return func(n int) line {
		names := make([]string, 10)
		for i := range names {
			names[i] = fmt.Sprintf("service-%d", i)
		}
		return open(t, broker.Options{Partitions: n}, names...).measure(n)
	}
}

// waiters has ever more clients that wait for a request each, while others call.
func waiters(t *testing.T) func(int) line {
	s := open(t, broker.Options{}, "echo", "late")
	s.fill(100) // more than a page of the listing
	waiting := s.waiting(t)
	return func(n int) line {
		waiting.grow(n)
		l := s.measure(n)
		l.note = waiting.reread()
		return l
	}
}
