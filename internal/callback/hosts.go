package callback

import (
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Bounds of what is held back because its host has its share already.
const (
	shortestHold = 250 * time.Millisecond
	longestHold  = time.Minute
	firstGuess   = time.Second // of how long a delivery to a host takes
)

// hosts shares the slots out: a slow receiver keeps its own callbacks waiting,
// not those of others.
type hosts struct {
	mu   sync.Mutex // guards the rest
	busy map[string]*host
}

type host struct {
	sending int
	mean    time.Duration // recent deliveries
	booked  time.Time     // until when those held back will keep it busy
}

// take gives a slot for the host of a URL, or says for how long to hold the
// callback back: what waits is spread over the time that it will need, so that
// thousands do not ask again every second.
func (h *hosts) take(raw string) (release func(), hold time.Duration) {
	name := hostOf(raw)
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.busy[name]
	if at == nil {
		at = &host{mean: firstGuess}
		h.busy[name] = at
	}
	if at.sending >= perHost {
		now := time.Now()
		if at.booked.Before(now) {
			at.booked = now
		}
		if at.booked.Sub(now) < longestHold {
			at.booked = at.booked.Add(at.mean / perHost)
		}
		hold = min(max(at.booked.Sub(now), shortestHold), longestHold)
		return nil, hold + rand.N(hold/4)
	}
	at.sending++
	begun := time.Now()
	return func() { h.release(name, time.Since(begun)) }, 0
}

func (h *hosts) release(name string, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.busy[name]
	at.sending--
	at.mean = (3*at.mean + took) / 4
	if at.sending == 0 && at.booked.Before(time.Now()) {
		delete(h.busy, name) // names come from clients: none is kept without need
	}
}

// hostOf is what counts as one receiver.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}
