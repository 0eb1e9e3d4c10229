package redistest

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/coatcheck/coatcheck/internal/quickredis"
)

// Pipe is an embedded Redis without sockets, for use inside a testing/synctest
// bubble: its clock and its TTLs are the bubble's. Give the returned function to
// broker.Options.Dial.
func Pipe(t testing.TB) (*quickredis.Redis, func(ctx context.Context, network, addr string) (net.Conn, error)) {
	t.Helper()
	mini := quickredis.New()
	mini.ClockTTL(true)
	t.Cleanup(mini.Close)
	return mini, func(context.Context, string, string) (net.Conn, error) {
		c, err := mini.Dial()
		if err != nil {
			return nil, err
		}
		return buffer(c), nil
	}
}

// buffered is a connection whose writes never wait for the reader: a bare
// net.Pipe has no buffer, and a pipeline longer than one write would wait for a
// server that waits for its first answer to be read.
type buffered struct {
	net.Conn

	mu     sync.Mutex // guards the rest
	more   *sync.Cond
	bytes  []byte
	closed bool
}

func buffer(c net.Conn) net.Conn {
	b := &buffered{Conn: c}
	b.more = sync.NewCond(&b.mu)
	go b.pump()
	return b
}

func (b *buffered) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, net.ErrClosed
	}
	b.bytes = append(b.bytes, p...)
	b.more.Signal()
	return len(p), nil
}

// pump carries what was written to the other side, until Close.
func (b *buffered) pump() {
	for {
		b.mu.Lock()
		for len(b.bytes) == 0 && !b.closed {
			b.more.Wait()
		}
		p, closed := b.bytes, b.closed
		b.bytes = nil
		b.mu.Unlock()
		if closed {
			return
		}
		if _, err := b.Conn.Write(p); err != nil {
			b.Close()
			return
		}
	}
}

func (b *buffered) Close() error {
	b.mu.Lock()
	b.closed = true
	b.more.Signal()
	b.mu.Unlock()
	return b.Conn.Close()
}
