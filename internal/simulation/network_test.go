package simulation_test

import (
	"context"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stray is how long what was sent on a connection may be under way after that is closed.
// Were it longer than a request is kept, a submit that is sent again could be accepted
// once more by what came of the first try.
const stray = time.Second

// link is a connection of a gateway to Redis. What a gateway writes waits here until
// the world lets Redis have it, and what Redis answers waits until the world lets the
// gateway have that.
type link struct {
	world *world
	owner *gate
	more  chan struct{} // capacity 1; the world sends, Read receives

	mu       sync.Mutex // guards the rest
	partial  []byte     // of a command that is not complete
	asked    []command  // sent, and not run
	answers  [][]byte   // of what was run; the gateway does not have them
	answered command    // the first that answers are of
	inbox    []byte     // what the gateway has and did not read
	closed   time.Time  // when either side closed it; zero while it is open
	readBy   time.Time  // zero for no limit
	blocked  time.Time  // until when the first of asked waits for data; zero where it does not
	channels []string   // that it listens to
	held     bool       // Redis gets nothing of it for now
}

// command is what a gateway wants of Redis.
type command struct {
	words []string
	label string // what it is, for the trace
	order string // by this it is told from others that came in the same instant
	came  int    // and by this from its likes
}

var (
	errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	errReset   = &net.OpError{Op: "write", Net: "tcp", Err: syscall.ECONNRESET}
)

// dial is broker.Options.Dial of a gateway.
func (g *gate) dial(context.Context, string, string) (net.Conn, error) {
	w := g.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if g.dead {
		return nil, errRefused
	}
	l := &link{world: w, owner: g, more: make(chan struct{}, 1)}
	w.links = append(w.links, l)
	return l, nil
}

// Write hands commands to the network. Greetings, and all that a gateway says while
// it starts, need no step: Redis answers at once.
func (l *link) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed.IsZero() {
		return 0, errReset
	}
	l.partial = append(l.partial, p...)
	for {
		words, rest, ok := readCommand(l.partial)
		if !ok {
			break
		}
		l.partial = append(l.partial[:0], rest...)
		if strings.EqualFold(words[0], "subscribe") {
			slices.Sort(words[1:]) // the client has them in a map
		}
		c := l.world.redis.command(words)
		c.order, c.came = l.owner.name+" "+strings.Join(words, " "), l.world.arrival()
		if len(l.asked) == 0 && (l.owner.starting || greeting(words)) {
			l.inbox = append(l.inbox, l.world.redis.run(words)...)
			continue
		}
		l.asked = append(l.asked, c)
		poke(l.world.sent)
	}
	return len(p), nil
}

func greeting(words []string) bool {
	return slices.Contains([]string{"HELLO", "CLIENT", "AUTH", "SELECT", "READONLY"}, strings.ToUpper(words[0]))
}

func (l *link) Read(p []byte) (int, error) {
	for {
		l.mu.Lock()
		closed, by := !l.closed.IsZero(), l.readBy
		n := copy(p, l.inbox)
		l.inbox = l.inbox[n:]
		l.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case closed:
			return 0, io.EOF
		case by.IsZero():
			<-l.more
			continue
		}
		left := time.Until(by)
		if left <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		t := time.NewTimer(left)
		select {
		case <-l.more:
		case <-t.C:
		}
		t.Stop()
	}
}

// Close ends the link from the side of the gateway: what it sent is still under way.
func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed.IsZero() {
		return net.ErrClosed
	}
	l.close()
	return nil
}

func (l *link) close() {
	l.closed, l.answers, l.inbox, l.channels = time.Now(), nil, nil, nil
	if !l.blocked.IsZero() { // Redis forgets who waited
		l.asked, l.blocked = nil, time.Time{}
	}
	poke(l.more)
}

// SyscallConn is how the library looks whether a connection that it did not use for a
// while is still there.
func (l *link) SyscallConn() (syscall.RawConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed.IsZero() {
		return nil, io.EOF
	}
	return fine{}, nil
}

// fine is a socket on which there is nothing to see.
type fine struct{ syscall.RawConn }

func (fine) Read(func(uintptr) bool) error { return nil }

func (*link) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*link) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*link) SetWriteDeadline(time.Time) error { return nil }
func (l *link) SetDeadline(t time.Time) error  { return l.SetReadDeadline(t) }

// SetReadDeadline has limits run out a little late: not in the instant in which a
// ticker ticks that ran when they were set, where chance would say what comes first.
func (l *link) SetReadDeadline(by time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.readBy = by; !by.IsZero() {
		l.readBy = by.Add(317 * time.Microsecond)
	}
	return nil
}

// runs has Redis run the first command of the link. The answer is under way then.
func (l *link) runs() {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.asked[0]
	if block, ok := blocks(c.words); ok && l.blocked.IsZero() {
		if answer := l.world.redis.run(unblocked(c.words)); string(answer) != nothing {
			l.answer(answer)
			return
		}
		l.blocked = time.Now().Add(block)
		return
	}
	if c.label == "subscribe" {
		l.channels = append(l.channels, c.words[1:]...)
		l.answer(subscribed(c.words[1:]))
		return
	}
	if len(l.channels) > 0 { // a ping
		l.answer([]byte("*2\r\n$4\r\npong\r\n$0\r\n\r\n"))
		return
	}
	l.answer(l.world.redis.run(c.words))
}

// answer puts the answer of the first command under way. mu is held.
func (l *link) answer(answer []byte) {
	if len(l.answers) == 0 {
		l.answered = l.asked[0]
	}
	l.asked, l.blocked = l.asked[1:], time.Time{}
	if l.closed.IsZero() {
		l.answers = append(l.answers, answer)
	}
}

// unblock answers a read that waits for data: where that has come, or its time is
// over.
func (l *link) unblock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.blocked.IsZero() {
		return
	}
	answer := l.world.redis.run(unblocked(l.asked[0].words))
	if string(answer) != nothing || !time.Now().Before(l.blocked) {
		l.answer(answer)
	}
}

// arrives lets the gateway have what was answered.
func (l *link) arrives() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.answers {
		l.inbox = append(l.inbox, a...)
	}
	l.answers = nil
	poke(l.more)
}

// hears puts a message under way to one who listens.
func (l *link) hears(channel string, message []byte) {
	if slices.Contains(l.channels, channel) {
		if len(l.answers) == 0 {
			l.answered = command{label: "message", order: l.owner.name + " message " + channel, came: l.world.arrival()}
		}
		l.answers = append(l.answers, message)
	}
}

// cut ends the link. reaches says of what was sent whether Redis gets it still.
func (l *link) cut(reaches bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !reaches {
		l.asked, l.blocked = nil, time.Time{}
	}
	if l.closed.IsZero() {
		l.close()
	}
}

// over tells that nothing will come of the link any more.
func (l *link) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed.IsZero() && (len(l.asked) == 0 || time.Since(l.closed) > stray)
}

// hold keeps what was sent from Redis, or no longer.
func (l *link) hold(held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
}

// ready tells what the world may do with the link.
func (l *link) ready() (run, deliver bool, c command) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.answers) > 0:
		deliver, c = true, l.answered
	case len(l.asked) > 0 && l.blocked.IsZero() && !l.held:
		run, c = true, l.asked[0]
	}
	if len(l.channels) > 0 { // two subscriptions say the same
		c.order += strings.Join(l.channels, " ")
	}
	return run, deliver, c
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
