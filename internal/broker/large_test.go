package broker_test

import (
	"context"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Large replies that come behind small ones are read together, for nobody knows of them,
// but no script takes more of them than one may.
func TestLargeRepliesBehindSmallOnes(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		answer := func(size int) {
			submit(t, b, "x")
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: make([]byte, size)})
		}
		answer(1)
		settle(t, b)
		for range 4 {
			answer(600 << 10)
		}
		var steps []int
		for more := true; more; {
			facts, left, err := b.Settle(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			steps, more = append(steps, len(facts)), left
		}
		if !slices.Equal(steps, []int{1, 1, 1, 1, 0}) {
			t.Errorf("settled by %v", steps)
		}
	})
}

// Who dies of what it reads would die of the same again: a gateway that has begun reads
// one reply.
func TestFirstReadIsOfOne(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for range 2 {
			submit(t, b, "x")
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		}
		if facts, more, err := b.Settle(t.Context(), 0); len(facts) != 1 || !more || err != nil {
			t.Errorf("%v, more %v, %v", facts, more, err)
		}
	})
}

// narrow is a connection by which so many bytes come in a second; all at once where it is 0.
type narrow struct {
	net.Conn
	rate *atomic.Int64
}

func (s narrow) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if rate := s.rate.Load(); rate > 0 {
		time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
	}
	return n, err
}

// Replies that are too large to come to the gateway in time hold nobody up: fewer are read
// together, and what is too large by itself is settled where it is.
func TestRepliesThatTakeLong(t *testing.T) {
	for name, c := range map[string]struct{ size, n int }{"many": {2 << 20, 10}, "one": {24 << 20, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mini, dial := redistest.Pipe(t)
				defer mini.Close()
				var rate atomic.Int64
				b := open(t, &redistest.Redis{URL: "redis://pipe:1"}, func(o *broker.Options) {
					o.MaxReply = 32 << 20
					o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
						conn, err := dial(ctx, network, addr)
						return narrow{conn, &rate}, err
					}
				})
				defer b.Close()
				answer := func(size int) {
					submit(t, b, "x")
					send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: make([]byte, size)})
				}
				answer(1)
				settle(t, b)
				for range c.n {
					answer(c.size)
				}
				answer(1)
				rate.Store(8 << 20)
				settled := 0
				for range c.n + 3 {
					facts, _, _ := b.Settle(t.Context(), 0) // it may take too long
					settled += len(facts)
				}
				if settled != c.n+1 {
					t.Errorf("%d of %d are settled", settled, c.n+1)
				}
			})
		})
	}
}
