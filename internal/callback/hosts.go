package callback

import (
	"context"
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
	firstGuess   = time.Second            // of how long a delivery to a host takes
	quick        = 100 * time.Millisecond // a host that answers within it may have more of the slots
)

// hosts shares the slots out: a slow receiver keeps its own callbacks waiting,
// not those of others.
type hosts struct {
	mu   sync.Mutex // guards the rest
	busy map[string]*host
}

type host struct {
	sending int
	waiting []chan struct{} // of those who rest in take; release gives slots to the first, and closes theirs
	mean    time.Duration   // recent deliveries
	booked  time.Time       // until when those held back will keep it busy
}

// share is how many deliveries to a host there may be at once.
func (at *host) share() int {
	if at.mean <= quick {
		return perQuickHost
	}
	return perHost
}

// slow tells whether a host is known not to answer soon.
func (at *host) slow() bool { return at.mean > quick && at.mean != firstGuess }

// take gives a slot for the host of a URL, or says for how long to hold the
// callback back: what waits is spread over the time that it will need, so that
// thousands do not ask again every second. To be held back costs more than a delivery to
// a quick host, so who may expect a slot there soon rests for it.
func (h *hosts) take(ctx context.Context, raw string) (release func(), hold time.Duration) {
	name := hostOf(raw)
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.busy[name]
	if at == nil {
		at = &host{mean: firstGuess}
		h.busy[name] = at
	}
	switch {
	case at.sending < at.share():
		at.sending++
	case at.slow() || !h.rest(ctx, at):
		return nil, at.hold()
	}
	begun := time.Now()
	return func() { h.release(name, time.Since(begun)) }, 0
}

// rest waits for a slot of at, and tells whether there is one. The lock is held when it
// is called and when it returns, and not in between.
func (h *hosts) rest(ctx context.Context, at *host) bool {
	turn := make(chan struct{})
	at.waiting = append(at.waiting, turn)
	h.mu.Unlock()
	patience := time.NewTimer(shortestHold)
	defer patience.Stop()
	select {
	case <-turn:
	case <-patience.C:
	case <-ctx.Done():
	}
	h.mu.Lock()
	select {
	case <-turn:
		return true
	default:
	}
	for i, c := range at.waiting {
		if c == turn {
			at.waiting = append(at.waiting[:i], at.waiting[i+1:]...)
			break
		}
	}
	return false
}

// hold is for how long one more is held back.
func (at *host) hold() time.Duration {
	now := time.Now()
	if at.booked.Before(now) {
		at.booked = now
	}
	if at.booked.Sub(now) < longestHold {
		at.booked = at.booked.Add(at.mean / time.Duration(at.share()))
	}
	hold := min(max(at.booked.Sub(now), shortestHold), longestHold)
	return hold + rand.N(hold/4)
}

func (h *hosts) release(name string, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.busy[name]
	if at.mean == firstGuess {
		at.mean = took
	}
	at.mean = (3*at.mean + took) / 4
	at.sending--
	for len(at.waiting) > 0 && at.sending < at.share() {
		at.sending++
		close(at.waiting[0])
		at.waiting = at.waiting[1:]
	}
	if at.sending == 0 && len(at.waiting) == 0 && at.booked.Before(time.Now()) {
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
