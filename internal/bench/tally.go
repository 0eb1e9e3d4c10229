package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Bounds of what a latency can be told apart by.
const (
	finest  = 1000                    // ns
	longest = int64(10 * time.Minute) // above every Timeout that makes sense; longer ones count as this
	figures = 3                       // significant ones
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(finest, longest, figures) }

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(int64(d), 0), longest))
}

// tally measures. A latency counts where its request began in the window, however
// late it ends; a reply counts for the rate where it came in the window.
type tally struct {
	mu       sync.Mutex // guards all
	from, to time.Time

	accepts, replies, late *hdrhistogram.Histogram
	recent                 *hdrhistogram.Histogram // since the last progress
	recentDone             int
	recentAt               time.Time

	done     int       // of what the run is about: 202s of Submit, else replies
	lastDone time.Time // the last of them
	only     bool      // the 202 is the end

	refusals map[int]int // by status code
	errors   int
	firstErr error
	cpu      [2]time.Duration // of this process, at both ends of the window
}

func newTally(via Via) *tally {
	return &tally{
		accepts: newHistogram(), replies: newHistogram(), late: newHistogram(), recent: newHistogram(),
		only: via == Submit, refusals: map[int]int{},
	}
}

func (t *tally) window(from, to time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.from, t.to, t.recentAt = from, to, time.Now()
}

// begin notes by how much the generator was late itself.
func (t *tally) begin(due time.Time) {
	late := time.Since(due)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !due.Before(t.from) {
		record(t.late, late)
	}
}

func (t *tally) accept(due, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !due.Before(t.from) {
		record(t.accepts, at.Sub(due))
	}
	if t.only {
		t.count(due, at)
	}
}

func (t *tally) reply(due, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !due.Before(t.from) {
		record(t.replies, at.Sub(due))
	}
	t.count(due, at)
}

func (t *tally) count(due, at time.Time) {
	if !at.Before(t.from) && !at.After(t.to) {
		t.done++
		if at.After(t.lastDone) {
			t.lastDone = at
		}
	}
	record(t.recent, at.Sub(due))
	t.recentDone++
}

func (t *tally) refuse(status int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refusals[status]++
}

func (t *tally) trouble(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.errors++
	if t.firstErr == nil {
		t.firstErr = err
	}
}

// mark notes the CPU time at an end of the window.
func (t *tally) mark(begin bool) {
	used := cpuTime()
	t.mu.Lock()
	defer t.mu.Unlock()
	if begin {
		t.cpu[0] = used
	}
	t.cpu[1] = used
}

// Progress is how it goes, over the time since the last one.
type Progress struct {
	At       time.Duration // since the run began
	Measured bool          // the warm-up is over
	Rate     float64
	P50, P99 time.Duration
	Done     int // measured so far
	Counts
}

func (t *tally) progress() (p Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	p.Measured, p.Done = !now.Before(t.from), t.done
	p.Rate = float64(t.recentDone) / now.Sub(t.recentAt).Seconds()
	p.P50, p.P99 = time.Duration(t.recent.ValueAtPercentile(50)), time.Duration(t.recent.ValueAtPercentile(99))
	t.recent.Reset()
	t.recentDone, t.recentAt = 0, now
	return p
}
