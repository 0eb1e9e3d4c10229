package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// figure is what was measured of one setup: medians.
type figure struct {
	row, title string
	sample
}

// line is one bound and what was measured.
type line struct {
	what   string
	bound  bound
	wanted bound // stricter; zero for none
	value  float64
	note   string
}

// bound is the least or the most that a number may be; the zero value is none.
type bound struct {
	kind  string
	value float64
	unit  string
}

const least, most = "≥ ", "≤ "

func atLeast(v float64, unit string) bound { return bound{least, v, unit} }
func atMost(v float64, unit string) bound  { return bound{most, v, unit} }

func (b bound) met(v float64) bool {
	if b.kind == least {
		return v >= b.value
	}
	return v <= b.value
}

func (b bound) text() string { return b.kind + number(b.value) + b.unit }

// number has as many decimals as say something.
func number(v float64) string {
	switch {
	case v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10 || v <= -10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func (l *lab) bound(what string, b, wanted bound, value float64, note string, args ...any) {
	l.lines = append(l.lines, line{what, b, wanted, value, fmt.Sprintf(note, args...)})
}

// rates bounds the rate of the gateway by that of another.
func (l *lab) rates(what, other string, b, wanted bound, f found) {
	own := string(product)
	l.bound(what, b, wanted, f.ratio(own, other, rate), "%.0f/s against %.0f/s; by CPU time %.2f", f.of(own, rate), f.of(other, rate), f.ratio(own, other, sample.carried))
}

// clean notes what went wrong with the gateway's requests. One line at the end is
// about all of them.
func (l *lab) clean(what string, bad int) {
	l.loads++
	if bad > 0 {
		l.bad += bad
		l.badIn = append(l.badIn, fmt.Sprintf("%s: %d", what, bad))
	}
}

// concluded are the lines, with the one about what went wrong.
func (l *lab) concluded() []line {
	if l.loads == 0 {
		return l.lines
	}
	note := "lost, doubled, wrong, out of order, refused or failed, or errors"
	if l.bad > 0 {
		note = strings.Join(l.badIn, ", ")
	}
	return append(l.lines, line{"requests to the gateway that went wrong, in all loads", atMost(0, ""), bound{}, float64(l.bad), note})
}

func (l *lab) missed() bool {
	for _, n := range l.concluded() {
		if !n.bound.met(n.value) {
			return true
		}
	}
	return false
}

// quiet is the share of the cores up to which other processes do not matter.
const quiet = 0.1

// others is the largest share that other processes took.
func (l *lab) others() (most float64) {
	for _, f := range l.figures {
		most = max(most, f.sample.others)
	}
	return most
}

// print writes the figures and the bounds.
func (l *lab) print(w io.Writer, took time.Duration) {
	fmt.Fprintf(w, "\n%d rounds of %v, %d clients, %d cores shared by all, %s, %.0f s\n\n", l.rounds, l.duration, l.clients, runtime.NumCPU(), cpuName(), took.Seconds())
	if len(l.figures) > 0 {
		fmt.Fprint(w, "Medians. CPU times are µs for one request; carried/s is what they allow all cores together. Others is the share\nof the cores that other processes of the machine took meanwhile.\n\n")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	if len(l.figures) > 0 {
		fmt.Fprintln(t, "\t\ta second\tp50 ms\tp99 ms\tCPU µs: gateway\tRedis\tworker\tgenerator\tcarried/s\tothers\tRedis in B\tout B\t")
	}
	for _, f := range l.figures {
		fmt.Fprintf(t, "%s\t%s\t%s\t%.2f\t%.2f\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f\t%.0f %%\t%.0f\t%.0f\t\n",
			f.row, f.title, number(f.rate), f.p50, f.p99, f.gateway, f.redis, f.worker, f.generator, f.carried(), 100*f.others, f.in, f.out)
	}
	_ = t.Flush()
	fmt.Fprintln(w)
	if most := l.others(); most > quiet {
		fmt.Fprintf(w, "Other processes took up to %.0f %% of the cores: rates and latencies say little here; what is said by CPU time says more.\n\n", 100*most)
	}
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, n := range l.concluded() {
		mark, wanted := "✗", ""
		if n.bound.met(n.value) {
			mark = "✓"
		}
		if n.wanted != (bound{}) {
			wanted = "(wanted " + n.wanted.text() + ")"
			if n.wanted.met(n.value) {
				wanted = "(wanted " + n.wanted.text() + " ✓)"
			}
		}
		fmt.Fprintf(t, "%s %s\t%s\t%s%s\t%s\t%s\n", mark, n.what, n.bound.text(), number(n.value), n.bound.unit, wanted, n.note)
	}
	_ = t.Flush()
}

// cpuName is what /proc calls the processor.
func cpuName() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	_, rest, _ := strings.Cut(string(raw), "model name")
	name, _, _ := strings.Cut(rest, "\n")
	return strings.Trim(name, "\t :")
}
