package broker

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// suspects are the connections of this process. A server that went away without a
// goodbye leaves all of them half-open, and each would cost a command its timeout
// before it is found: so when an answer does not come on one, those that nobody
// uses are closed as well, and what comes next dials anew.
type suspects struct {
	mu    sync.Mutex // guards conns
	conns map[*suspect]struct{}
}

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer is the one that dial is, nil for the library's own, with connections that
// watch each other.
func (s *suspects) dialer(o *redis.Options, dial dialer) dialer {
	if dial == nil {
		dial = redis.NewDialer(o)
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		one := &suspect{Conn: c, all: s}
		one.awaited.Store(true) // of the greeting
		s.mu.Lock()
		s.conns[one] = struct{}{}
		s.mu.Unlock()
		if raw, ok := c.(syscall.Conn); ok {
			return &rawSuspect{one, raw}, nil
		}
		return one, nil
	}
}

// timedOut closes those on which no answer is awaited. The library notices before it
// uses one again.
func (s *suspects) timedOut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if !c.awaited.Load() {
			c.Conn.Close()
			delete(s.conns, c)
		}
	}
}

// suspect is one connection.
type suspect struct {
	net.Conn
	all     *suspects
	awaited atomic.Bool // an answer: it was written to, and not read from since
}

// rawSuspect is one whose socket the library can look at.
type rawSuspect struct {
	*suspect
	syscall.Conn
}

func (c *suspect) Write(b []byte) (int, error) {
	c.awaited.Store(true)
	return c.Conn.Write(b)
}

func (c *suspect) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if isTimeout(err) {
		c.all.timedOut()
	} else {
		c.awaited.Store(false)
	}
	return n, err
}

func (c *suspect) Close() error {
	c.all.mu.Lock()
	delete(c.all.conns, c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}
