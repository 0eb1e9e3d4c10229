package sse

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
)

// ErrHungUp says that the client has closed the connection.
var ErrHungUp = errors.New("the client hung up")

// Follower knows what a stream is about. Its calls come from one goroutine at a time.
type Follower interface {
	// CatchUp adds what is new to the stream. done says that it was the last.
	CatchUp() (done bool, err error)
	// Ended is called once; the error says why it was early.
	Ended(err error)
}

// Parked is an idle stream, and after its end a connection that waits for the next
// request.
type Parked struct {
	idle     *Idle
	stream   *Stream  // nil after its end
	follower Follower // nil after the end of the stream
	why      atomic.Uint32
	slot     int

	conn   net.Conn
	server *http.Server // gets the connection back; nil: nobody
	read   []byte       // what came over it meanwhile: the next request
	first  [1]byte      // what it is read into

	heard, ended bool // the two that use the connection are done with it; guarded by idle.mu
	keep         bool // it can be used on
}

// Reasons for which a stream is looked at.
const (
	busy    = 1 << iota // somebody does
	changed             // there may be something new
	beat                // a heartbeat is due
	gone                // the client hung up
	drained             // the process drains
)

// Wake has the follower look. It does not wait.
func (p *Parked) Wake() { p.poke(changed) }

func (p *Parked) poke(why uint32) {
	if p.why.Or(why|busy)&busy == 0 {
		go p.run()
	}
}

// run does what the stream is looked at for, and what comes up meanwhile. After its
// end the stream stays busy, so that nobody looks again.
func (p *Parked) run() {
	defer func() {
		if v := recover(); v != nil { // one stream must not take the others with it
			p.idle.log.Error("a stream panicked", "panic", v, "stack", string(debug.Stack()))
			p.stream.broken = true
			p.end(fmt.Errorf("panic: %v", v))
		}
	}()
	for {
		done, err := p.look(p.why.Swap(busy))
		if done || err != nil {
			p.end(err)
			return
		}
		if p.why.CompareAndSwap(busy, 0) {
			return
		}
	}
}

func (p *Parked) look(why uint32) (done bool, err error) {
	if why&gone != 0 {
		p.stream.broken = true
		return true, ErrHungUp
	}
	if why&changed != 0 {
		if done, err = p.follower.CatchUp(); done || err != nil {
			return done, err
		}
	}
	if why&drained != 0 {
		return true, nil
	}
	if why&beat != 0 && len(p.stream.pending) == 0 {
		return false, p.stream.Heartbeat()
	}
	return false, p.stream.Flush()
}

func (p *Parked) end(err error) {
	s, f := p.stream, p.follower
	p.idle.leave(p)
	if !s.broken {
		err = errors.Join(err, s.End())
	}
	p.stream, p.follower = nil, nil
	f.Ended(err)
	p.release(!s.broken)
}
