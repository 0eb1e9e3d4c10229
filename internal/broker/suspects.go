package broker

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/redisurl"
)

// suspects are the connections of this process. A server that went away without a
// goodbye leaves all of them half-open, and each would cost a command its timeout
// before it is found: so when an answer does not come on one, those that nobody
// uses are closed as well, and what comes next dials anew.
type suspects struct {
	opaque bool // see lost

	mu    sync.Mutex // guards conns
	conns map[*suspect]struct{}
}

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialerOf is the one that dial is, nil for the network.
func dialerOf(t redisurl.Target, dial dialer) dialer {
	if dial == nil {
		dial = redis.NewDialer(&redis.Options{DialTimeout: dialTimeout, TLSConfig: t.TLS.Config()})
	}
	return dial
}

// dialer is that with connections that watch each other.
func (s *suspects) dialer(t redisurl.Target, dial dialer) dialer {
	dial = dialerOf(t, dial)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		one := &suspect{Conn: c, addr: addr, all: s}
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

// timedOut closes those to one address on which no answer is awaited. The library
// notices before it uses one again.
func (s *suspects) timedOut(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.addr == addr && !c.awaited.Load() {
			c.Conn.Close()
			delete(s.conns, c)
		}
	}
}

// suspect is one connection.
type suspect struct {
	net.Conn
	addr    string
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
	n, err := c.Conn.Write(b)
	return n, c.all.shown(err)
}

func (c *suspect) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if isTimeout(err) {
		c.all.timedOut(c.addr)
	} else {
		c.awaited.Store(false)
	}
	return n, c.all.shown(err)
}

// lost is an error of a connection that the library does not know for one. In a
// Redis Cluster it must follow a slot that moved, and with that comes that it sends
// anew what may have been done, where it knows that a connection broke.
type lost struct{ cause error }

func (l lost) Error() string { return l.cause.Error() }

// shown is how the library is told of an error.
func (s *suspects) shown(err error) error {
	if err == nil || !s.opaque {
		return err
	}
	return lost{err}
}

func (c *suspect) Close() error {
	c.all.mu.Lock()
	delete(c.all.conns, c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}
