package httpapi

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Listener makes connections as the server of NewHTTPServer serves them with the least
// work.
func Listener(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

// conn is the connection of a client. It spares two things of which net/http does more
// than a submit needs:
//
// A deadline for reading is set eight times a call, for one or two reads. Each takes a
// lock of the poller and moves a timer, so here it waits for the read that it is for.
//
// While a handler runs, another goroutine reads the byte after the call, to notice that
// the client hangs up; at the end it is woken and waited for. See watch.
type conn struct {
	net.Conn

	mu        sync.Mutex // guards the rest
	deadline  time.Time  // that was asked for
	set       time.Time  // that Conn has
	reads     int        // under way
	unwatched bool
}

func (c *conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	if c.unwatched && len(b) == 1 { // no other read of net/http is that short
		c.mu.Unlock()
		return 0, nil // which ends that goroutine, and tells nothing
	}
	c.reads++
	err := c.setDeadline()
	c.mu.Unlock()
	var n int
	if err == nil {
		n, err = c.Conn.Read(b)
	}
	c.mu.Lock()
	c.reads--
	c.mu.Unlock()
	return n, err
}

// SetReadDeadline is for a read that is under way as well.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if c.reads == 0 {
		return nil
	}
	return c.setDeadline()
}

func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// setDeadline has c.mu held.
func (c *conn) setDeadline() error {
	if c.set.Equal(c.deadline) {
		return nil
	}
	c.set = c.deadline
	return c.Conn.SetReadDeadline(c.set)
}

// CloseWrite lets net/http end a connection of which it has not read all.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// watch tells whether the handler's context is to end where the client hangs up. Who
// reads a body to its end while it is not leaves nobody watching until the handler's end.
// nil is a connection of another kind, which is always watched.
func (c *conn) watch(hangUps bool) {
	if c == nil {
		return
	}
	c.mu.Lock()
	c.unwatched = !hangUps
	c.mu.Unlock()
}

type connKey struct{}

// withConn is for connOf.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(*conn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// connOf is the connection of a call, nil where it did not come from Listener.
func connOf(r *http.Request) *conn {
	c, _ := r.Context().Value(connKey{}).(*conn)
	return c
}
