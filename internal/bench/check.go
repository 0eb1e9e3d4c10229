package bench

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrCheck is returned for an expectation that can't be read.
var ErrCheck = errors.New("an expectation can't be read")

// Check is one expectation, such as p99<50ms.
type Check struct {
	Text string

	metric metric
	op     string
	bound  float64
}

// metric is something that a result has a number for.
type metric struct {
	of   func(*Result) float64
	unit unit
}

type unit int

const (
	count     unit = iota
	duration       // in ms
	perSecond      // a number, as count is, with decimals
)

// counted are the metrics that are not latencies.
var counted = map[string]metric{
	"rate":         {func(r *Result) float64 { return r.Rate }, perSecond},
	"requests":     {func(r *Result) float64 { return float64(r.Requests) }, count},
	"sent":         {func(r *Result) float64 { return float64(r.Sent) }, count},
	"accepted":     {func(r *Result) float64 { return float64(r.Accepted) }, count},
	"answered":     {func(r *Result) float64 { return float64(r.Answered) }, count},
	"failed":       {func(r *Result) float64 { return float64(r.Failed) }, count},
	"lost":         {func(r *Result) float64 { return float64(r.Lost) }, count},
	"doubled":      {func(r *Result) float64 { return float64(r.Doubled) }, count},
	"wrong":        {func(r *Result) float64 { return float64(r.Wrong) }, count},
	"out_of_order": {func(r *Result) float64 { return float64(r.OutOfOrder) }, count},
	"refused":      {func(r *Result) float64 { return float64(r.Refused) }, count},
	"errors":       {func(r *Result) float64 { return float64(r.Errors) }, count},
}

// operators, the longer ones first.
var operators = []string{"<=", ">=", "<", ">", "="}

// Metrics tells a user what may be expected of.
const Metrics = "p50, p99, p99.9 (any percentile), mean and max of the latency, accept_p50 … of that of the 202 alone, " +
	"rate, requests, sent, accepted, answered, failed, lost, doubled, wrong, out_of_order, refused, errors"

// ParseChecks reads expectations: a metric, one of < <= > >= =, and a bound,
// which for a latency is a duration. ErrCheck.
func ParseChecks(texts []string) ([]Check, error) {
	checks := make([]Check, 0, len(texts))
	for _, text := range texts {
		c, err := parseCheck(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %q %w", ErrCheck, text, err)
		}
		checks = append(checks, c)
	}
	return checks, nil
}

func parseCheck(text string) (Check, error) {
	c := Check{Text: strings.ReplaceAll(text, " ", "")}
	at := strings.IndexAny(c.Text, "<>=")
	if at < 0 {
		return c, errors.New("has none of < <= > >= =")
	}
	name, rest := c.Text[:at], c.Text[at:]
	for _, op := range operators {
		if value, ok := strings.CutPrefix(rest, op); ok {
			c.op, rest = op, value
			break
		}
	}
	var ok bool
	if c.metric, ok = metricNamed(name); !ok {
		return c, fmt.Errorf("begins with none of %s", Metrics)
	}
	if c.metric.unit == duration {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 {
			return c, errors.New("ends with no duration such as 50ms")
		}
		c.bound = ms(int64(d))
		return c, nil
	}
	n, err := strconv.ParseFloat(rest, 64)
	if err != nil || n < 0 || n != n {
		return c, errors.New("ends with no number")
	}
	c.bound = n
	return c, nil
}

func metricNamed(name string) (metric, bool) {
	if m, ok := counted[name]; ok {
		return m, true
	}
	of := (*Result).main
	if rest, ok := strings.CutPrefix(name, "accept_"); ok {
		name, of = rest, func(r *Result) *Latency { return &r.Accept }
	}
	switch {
	case name == "mean":
		return metric{func(r *Result) float64 { return of(r).Mean }, duration}, true
	case name == "max":
		return metric{func(r *Result) float64 { return of(r).Max }, duration}, true
	case strings.HasPrefix(name, "p"):
		if p, err := strconv.ParseFloat(name[1:], 64); err == nil && p > 0 && p <= 100 {
			return metric{func(r *Result) float64 { return of(r).at(p) }, duration}, true
		}
	}
	return metric{}, false
}

// Verdict is what came of an expectation.
type Verdict struct {
	Check string  `json:"check"`
	Met   bool    `json:"met"`
	Value float64 `json:"value"` // ms of a latency

	text string
}

// Judge holds a result to expectations. A latency that nobody measured meets none.
func Judge(r *Result, checks []Check) (verdicts []Verdict, met bool) {
	met = true
	for _, c := range checks {
		v := Verdict{Check: c.Text, Value: c.metric.of(r)}
		switch c.op {
		case "<":
			v.Met = v.Value < c.bound
		case "<=":
			v.Met = v.Value <= c.bound
		case ">":
			v.Met = v.Value > c.bound
		case ">=":
			v.Met = v.Value >= c.bound
		default:
			v.Met = v.Value == c.bound
		}
		switch c.metric.unit {
		case duration:
			v.Met = v.Met && r.main().histogram.TotalCount() > 0
			v.text = latencyText(v.Value)
		case perSecond:
			v.text = fmt.Sprintf("%.1f", v.Value)
		default:
			v.text = fmt.Sprintf("%.0f", v.Value)
		}
		met = met && v.Met
		verdicts = append(verdicts, v)
	}
	return verdicts, met
}
