package redistest

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy is the network between one client and a Redis, and breaks it. Without a
// fault it carries everything. It knows nothing of Redis: what it cuts, holds
// and loses are bytes.
//
//	p := r.Proxy(t)
//	… broker.Options{URL: p.URL} …
//	p.Hold() // a black hole
//	p.Heal()
type Proxy struct {
	// URL takes the place of Redis.URL.
	URL string

	listener net.Listener
	target   string

	mu      sync.Mutex // guards the rest
	links   map[*link]struct{}
	fault   fault
	changed chan struct{} // closed, and replaced, when fault changes
	lost    int           // answers that Lose lost
}

// fault is what a proxy does to its links; the zero value is none.
type fault struct {
	hold    bool
	trickle time.Duration // between two bytes; 0 for none
	cut     func() int    // after so many bytes of answers a link is reset; nil for never
	lose    func(sent []byte) bool
	mute    func(sent []byte) bool
}

// link is one connection through a proxy. Its flags are guarded by the proxy.
type link struct {
	proxy          *Proxy
	client, server net.Conn

	dead   bool // both sides hear nothing of each other any more
	mute   bool // the client hears nothing any more
	doomed bool // its next answer is lost, and then the link
	left   int  // bytes of answers until it is cut; below 0 for never
}

// Proxy starts a proxy in front of r, which ends with the test.
func (r *Redis) Proxy(t testing.TB) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("start a proxy: %v", err)
	}
	p := &Proxy{
		URL: "redis://" + l.Addr().String(), listener: l, target: r.Client.Options().Addr,
		links: map[*link]struct{}{}, changed: make(chan struct{}),
	}
	var running sync.WaitGroup
	running.Go(func() { p.accept(&running) })
	t.Cleanup(func() {
		l.Close()
		p.Heal()
		p.Reset()
		running.Wait()
	})
	return p
}

// Hold is a black hole: nothing passes, and nobody is told. What was sent
// meanwhile arrives after Heal, as TCP sends it again.
func (p *Proxy) Hold() { p.set(fault{hold: true}) }

// Trickle passes a byte each interval, in each direction of each link.
func (p *Proxy) Trickle(interval time.Duration) { p.set(fault{trickle: interval}) }

// Cut resets each link after as many bytes of answers as after says, for each
// anew.
func (p *Proxy) Cut(after func() int) { p.set(fault{cut: after}) }

// Lose has what a client sends reach Redis, and loses the answer together with
// the link where which says so of the bytes sent.
func (p *Proxy) Lose(which func(sent []byte) bool) { p.set(fault{lose: which}) }

// Mute passes no answer any more on links on which the bytes sent are such as
// which says. The client is not told.
func (p *Proxy) Mute(which func(sent []byte) bool) { p.set(fault{mute: which}) }

// Heal ends the fault. Links that are dead or mute stay so.
func (p *Proxy) Heal() { p.set(fault{}) }

// Reset ends all links at once, as a peer that rebooted does.
func (p *Proxy) Reset() {
	for _, l := range p.all() {
		l.reset()
	}
}

// Forget leaves all links half-open: Redis sees them closed, the client sees
// nothing and hears nothing. New ones work.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.dead = true
		l.server.Close()
	}
}

// Links is how many connections there are.
func (p *Proxy) Links() int { return len(p.all()) }

// Lost is how many answers Lose has lost so far.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

func (p *Proxy) set(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
	for l := range p.links {
		l.left = f.allowance()
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// allowance is how many bytes of answers a link may pass; below 0 for all.
func (f fault) allowance() int {
	if f.cut == nil {
		return -1
	}
	return f.cut()
}

func (p *Proxy) all() (links []*link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		links = append(links, l)
	}
	return links
}

func (p *Proxy) accept(running *sync.WaitGroup) {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil { // Redis is down: so is what leads to it
			(&link{client: client, server: client}).reset()
			continue
		}
		l := &link{proxy: p, client: client, server: server}
		p.mu.Lock()
		l.left = p.fault.allowance()
		p.links[l] = struct{}{}
		p.mu.Unlock()
		var ways sync.WaitGroup
		ways.Go(func() { l.carry(client, l.up) })
		ways.Go(func() { l.carry(server, l.down) })
		running.Go(func() {
			ways.Wait()
			l.client.Close()
			l.server.Close()
			p.mu.Lock()
			delete(p.links, l)
			p.mu.Unlock()
		})
	}
}

// carry passes on what one side sends until that side ends.
func (l *link) carry(from net.Conn, pass func([]byte) error) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if wrong := pass(buffer[:n]); wrong != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	l.end(from)
}

// end tells the other side that this one ended, where the network would.
func (l *link) end(from net.Conn) {
	l.proxy.mu.Lock()
	silent := l.dead || l.mute && from == l.server
	l.proxy.mu.Unlock()
	if silent {
		if from == l.client {
			l.server.Close()
		}
		return
	}
	l.wait(func() bool { return !l.proxy.fault.hold })
	l.client.Close()
	l.server.Close()
}

// up passes what the client sent.
func (l *link) up(sent []byte) error {
	l.wait(func() bool { return !l.proxy.fault.hold })
	l.proxy.mu.Lock()
	f := l.proxy.fault
	l.mute = l.mute || f.mute != nil && f.mute(sent)
	l.doomed = l.doomed || f.lose != nil && f.lose(sent)
	dead := l.dead
	l.proxy.mu.Unlock()
	if dead {
		return nil
	}
	return l.write(l.server, sent)
}

var errCut = errors.New("the link was cut")

// down passes what Redis answered.
func (l *link) down(answer []byte) error {
	l.wait(func() bool { return !l.proxy.fault.hold })
	l.proxy.mu.Lock()
	silent, doomed, left := l.dead || l.mute, l.doomed, l.left
	if doomed {
		l.proxy.lost++
	}
	if left >= 0 {
		l.left = max(0, left-len(answer))
	}
	l.proxy.mu.Unlock()
	switch {
	case silent:
		return nil
	case doomed:
		l.reset()
		return errCut
	case left < 0 || left > len(answer):
		return l.write(l.client, answer)
	}
	_ = l.write(l.client, answer[:left]) // the rest is lost in any case
	l.reset()
	return errCut
}

// write sends all of it, at the pace of the network.
func (l *link) write(to io.Writer, all []byte) error {
	for len(all) > 0 {
		l.proxy.mu.Lock()
		pace, changed := l.proxy.fault.trickle, l.proxy.changed
		l.proxy.mu.Unlock()
		n := len(all)
		if pace > 0 {
			n = 1
		}
		if _, err := to.Write(all[:n]); err != nil {
			return err
		}
		if all = all[n:]; len(all) > 0 && pace > 0 {
			select {
			case <-time.After(pace):
			case <-changed:
			}
		}
	}
	return nil
}

// wait returns once free says so, of what the proxy guards.
func (l *link) wait(free func() bool) {
	for {
		l.proxy.mu.Lock()
		is, changed := free(), l.proxy.changed
		l.proxy.mu.Unlock()
		if is {
			return
		}
		<-changed
	}
}

// reset ends the link without a goodbye.
func (l *link) reset() {
	for _, c := range []net.Conn{l.client, l.server} {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset instead of an orderly end
		}
		c.Close()
	}
}
