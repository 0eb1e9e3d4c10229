package sse

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	// HeartbeatEvery is below the idle limits of common proxies.
	HeartbeatEvery = 15 * time.Second

	tick  = 100 * time.Millisecond // heartbeats that are due within it go out together
	slots = int(HeartbeatEvery / tick)
)

// Idle has the streams at which nothing happens. They have no goroutine of a handler
// and none of its buffers: one clock sends the heartbeats of all, and who is woken
// gets a goroutine for as long as it takes to write.
type Idle struct {
	log   *slog.Logger
	drain func() <-chan struct{} // closed by its owner: streams end, so that their clients resume elsewhere

	mu    sync.Mutex // guards the rest
	conns map[*Parked]struct{}
	wheel [slots]map[*Parked]struct{} // it turns once in HeartbeatEvery
	at    int                         // the slot that is next
	none  chan struct{}               // closed when the last of conns is gone; the clock runs until then
}

// NewIdle makes the place for idle streams. They end when what drain returns is closed.
func NewIdle(drain func() <-chan struct{}, log *slog.Logger) *Idle {
	return &Idle{drain: drain, log: log, conns: map[*Parked]struct{}{}}
}

// Park takes the connection of a stream from net/http: the handler returns, and the
// follower is called from elsewhere. first is until the first heartbeat. Follow it by
// Begin. It returns nil where it can't be done: without HTTP/1.1, or a net/http
// server, or once the drain has begun.
func (i *Idle) Park(s *Stream, r *http.Request, f Follower, first time.Duration) *Parked {
	if i.draining() {
		return nil
	}
	p := &Parked{idle: i, stream: s, follower: f}
	p.why.Store(busy) // until Begin
	if !p.take(s.w, r) {
		return nil
	}
	s.w, s.conn, s.pending = nil, p.conn, nil
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.conns) == 0 {
		i.none = make(chan struct{})
		go i.clock(i.none)
	}
	i.conns[p] = struct{}{}
	p.slot = (i.at + max(0, min(int(first/tick), slots)-1)) % slots // rather early than late
	if i.wheel[p.slot] == nil {
		i.wheel[p.slot] = map[*Parked]struct{}{}
	}
	i.wheel[p.slot][p] = struct{}{}
	return p
}

// Begin has the follower look whenever the stream is woken, or has been since Park.
func (p *Parked) Begin() {
	if p.idle.draining() { // the clock may have told of it before the stream was there
		p.why.Or(drained)
	}
	go p.listen()
	if !p.why.CompareAndSwap(busy, 0) {
		go p.run()
	}
}

// clock sends heartbeats, and tells of the drain.
func (i *Idle) clock(none <-chan struct{}) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	begun, turned, drain := time.Now(), 0, i.drain()
	for {
		select {
		case <-none:
			return
		case <-drain:
			drain = nil
			i.each(func(p *Parked) {
				if p.ended {
					p.conn.Close()
				}
				p.poke(drained)
			})
		case <-ticker.C:
			for ; turned < int(time.Since(begun)/tick); turned++ { // a busy process misses ticks
				i.turn()
			}
		}
	}
}

func (i *Idle) turn() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for p := range i.wheel[i.at] {
		p.poke(beat)
	}
	i.at = (i.at + 1) % slots
}

// leave ends the heartbeats of a stream.
func (i *Idle) leave(p *Parked) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.wheel[p.slot], p)
}

// forget a connection that was given back or closed.
func (i *Idle) forget(p *Parked) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.conns, p)
	if len(i.conns) == 0 {
		close(i.none)
	}
}

func (i *Idle) each(do func(*Parked)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for p := range i.conns {
		do(p)
	}
}

func (i *Idle) draining() bool {
	select {
	case <-i.drain():
		return true
	default:
		return false
	}
}

// Wait returns once the drain has ended all streams; those that are still open when
// ctx ends are cut. An error says that there were some.
func (i *Idle) Wait(ctx context.Context) error {
	i.mu.Lock()
	open, none := len(i.conns) > 0, i.none
	i.mu.Unlock()
	if !open {
		return nil
	}
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		i.each(func(p *Parked) { p.conn.Close() })
		return ctx.Err()
	}
}
