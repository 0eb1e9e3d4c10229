package upstream

import (
	"sync"
	"time"
)

const (
	firstLimit = 8
	backOff    = 0.7                    // of the limit, where the backend is overloaded
	oncePer    = 200 * time.Millisecond // answers to calls that were under way together count once
)

// limit is how many calls a backend bears, found by additive increase and
// multiplicative decrease (AIMD, Chiu and Jain 1989).
type limit struct {
	most float64

	mu      sync.Mutex // guards the rest
	bears   float64
	reduced time.Time
}

func newLimit(most int) *limit {
	return &limit{most: float64(most), bears: min(firstLimit, float64(most))}
}

func (l *limit) now() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.bears)
}

// answered notes a call that went well: one more for each round of them.
func (l *limit) answered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bears = min(l.most, l.bears+1/l.bears)
}

// overloaded notes a call that the backend could not bear.
func (l *limit) overloaded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.reduced) < oncePer {
		return
	}
	l.bears, l.reduced = max(1, l.bears*backOff), time.Now()
}
