package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteTable shows a result to people.
func (r *Result) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	mode := "closed loop"
	if r.Target > 0 {
		mode = fmt.Sprintf("%g a second", r.Target)
	}
	row("load", "%s, %s, %d clients, bodies of %d bytes to %s", r.Via, mode, r.Clients, r.Body, r.Service)
	row("measured", "%.1f s after %.1f s of warm-up", r.Seconds, r.Warmup)
	row("requests", "%d", r.Requests)
	row("rate", "%.1f a second", r.Rate)
	row("202 after", "%s", r.Accept.text())
	if r.Reply != nil {
		row("reply after", "%s", r.Reply.text())
	}
	if r.Late != nil {
		row("began late by", "%s", r.Late.text())
	}
	row("found", "%s", r.found())
	if r.FirstError != "" {
		row("first error", "%s", r.FirstError)
	}
	row("generator", "%.1f µs of CPU a request", r.GeneratorCPU)
	return t.Flush()
}

// found is what a check found: what must be none stands there always.
func (c Counts) found() string {
	text := fmt.Sprintf("%d lost, %d doubled, %d wrong, %d out of order", c.Lost, c.Doubled, c.Wrong, c.OutOfOrder)
	for _, more := range []struct {
		n    int
		what string
	}{{c.Failed, "failed"}, {c.Refused, "refused"}, {c.Errors, "errors"}, {c.Unfinished, "unfinished"}} {
		if more.n > 0 {
			text += fmt.Sprintf(", %d %s", more.n, more.what)
		}
	}
	return text
}

// found of a result also says by what was refused.
func (r *Result) found() string {
	text := r.Counts.found()
	for _, code := range slices.Sorted(maps.Keys(r.Refusals)) {
		text += fmt.Sprintf(", %d × %d", r.Refusals[code], code)
	}
	return text
}

func (l *Latency) text() string {
	var parts []string
	for _, p := range []struct {
		name  string
		value float64
	}{{"p50", l.P50}, {"p90", l.P90}, {"p99", l.P99}, {"p99.9", l.P999}, {"max", l.Max}} {
		parts = append(parts, p.name+" "+latencyText(p.value))
	}
	return strings.Join(parts, "  ")
}

// latencyText has three figures, and never fewer than it needs.
func latencyText(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < 100*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < 10*time.Second:
		return d.Round(time.Millisecond).String()
	default:
		return d.Round(100 * time.Millisecond).String()
	}
}

// WriteVerdicts shows which expectations were met.
func WriteVerdicts(w io.Writer, verdicts []Verdict) error {
	for _, v := range verdicts {
		mark := "✗"
		if v.Met {
			mark = "✓"
		}
		if _, err := fmt.Fprintf(w, "%s %s (%s)\n", mark, v.Check, v.text); err != nil {
			return err
		}
	}
	return nil
}

// Text is one line.
func (p Progress) Text() string {
	phase := ""
	if !p.Measured {
		phase = " (warm-up)"
	}
	return fmt.Sprintf("%4.0fs%s  %d done  %.0f/s  p50 %s  p99 %s  %s",
		p.At.Seconds(), phase, p.Done, p.Rate, latencyText(ms(int64(p.P50))), latencyText(ms(int64(p.P99))), p.found())
}
