package bench

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Counts are what was found of the requests of a run. All of them count from the
// first request on, the warm-up included.
type Counts struct {
	Sent       int `json:"sent"`
	Accepted   int `json:"accepted"`     // by a 202
	Answered   int `json:"answered"`     // with an outcome
	Failed     int `json:"failed"`       // of these: outcomes that are no success
	Lost       int `json:"lost"`         // accepted, and no outcome in time
	Doubled    int `json:"doubled"`      // outcomes, or IDs, that came twice
	Wrong      int `json:"wrong"`        // outcomes with other bytes than were sent, or of another request
	OutOfOrder int `json:"out_of_order"` // events or states that came after what they precede
	Unfinished int `json:"unfinished"`   // open when the run was interrupted
	Refused    int `json:"refused"`      // by 429, 503 and the like
	Errors     int `json:"errors"`       // of the network, and answers that nobody should give
}

// Result is what came of a run.
type Result struct {
	Via     Via     `json:"via"`
	URL     string  `json:"url"`
	Service string  `json:"service"`
	Body    int     `json:"body_bytes"`
	Clients int     `json:"clients"`
	Target  float64 `json:"target_rate,omitempty"` // as asked for; 0 for a closed loop

	Seconds  float64 `json:"seconds"` // measured
	Warmup   float64 `json:"warmup_seconds"`
	Requests int     `json:"requests"` // that were done in the measured time
	Rate     float64 `json:"rate"`     // of them a second

	Accept Latency  `json:"accept"`          // until the 202
	Reply  *Latency `json:"reply,omitempty"` // until the reply was seen; nil where nobody looked
	Late   *Latency `json:"late,omitempty"`  // by how much requests of a fixed rate began after their instants

	Counts
	Refusals   map[int]int `json:"refusals,omitempty"` // by status code
	FirstError string      `json:"first_error,omitempty"`

	GeneratorCPU float64 `json:"generator_cpu_us"` // µs of CPU that one request took here
}

// Latency is how long it took.
type Latency struct {
	Mean float64 `json:"mean_ms"`
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	Max  float64 `json:"max_ms"`

	histogram *hdrhistogram.Histogram
}

func latencyOf(h *hdrhistogram.Histogram) *Latency {
	l := &Latency{Mean: h.Mean() / float64(time.Millisecond), Max: ms(h.Max()), histogram: h}
	l.P50, l.P90, l.P99, l.P999 = l.at(50), l.at(90), l.at(99), l.at(99.9)
	return l
}

// at is a percentile in ms.
func (l *Latency) at(percentile float64) float64 {
	return ms(l.histogram.ValueAtPercentile(percentile))
}

func ms(ns int64) float64 { return float64(ns) / float64(time.Millisecond) }

// main is the latency that the run is about.
func (r *Result) main() *Latency {
	if r.Reply != nil {
		return r.Reply
	}
	return &r.Accept
}

// result is drawn up when every client has ended.
func (r *run) result(interrupted bool) Result {
	c, open := r.book.close()
	t := r.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	if interrupted {
		c.Unfinished = open
	} else if r.Via != Submit {
		c.Lost = open
	}
	c.Errors = t.errors
	for _, n := range t.refusals {
		c.Refused += n
	}
	end := min2(r.until, time.Now())   // before, where all was lost
	if r.Requests > 0 || interrupted { // it may have been over before
		end = min2(end, t.lastDone)
	}
	v := Result{
		Via: r.Via, URL: r.URL, Service: r.Service, Body: r.Body, Clients: r.Clients, Target: r.Rate,
		Seconds: max(0, end.Sub(r.from).Seconds()), Warmup: r.Warmup.Seconds(), Requests: t.done,
		Accept: *latencyOf(t.accepts), Counts: c, Refusals: t.refusals,
	}
	if v.Seconds > 0 {
		v.Rate = float64(t.done) / v.Seconds
	}
	if r.Via != Submit {
		v.Reply = latencyOf(t.replies)
	}
	if r.Rate > 0 {
		v.Late = latencyOf(t.late)
	}
	if t.firstErr != nil {
		v.FirstError = t.firstErr.Error()
	}
	if t.done > 0 {
		v.GeneratorCPU = float64(t.cpu[1]-t.cpu[0]) / float64(time.Microsecond) / float64(t.done)
	}
	return v
}

func min2(a, b time.Time) time.Time {
	if b.IsZero() || a.Before(b) {
		return a
	}
	return b
}
