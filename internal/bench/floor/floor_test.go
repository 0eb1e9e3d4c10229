package floor_test

import (
	"context"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/bench"
	"github.com/coatcheck/coatcheck/internal/bench/floor"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// run runs something until the test ends; it must not end before.
func run(t *testing.T, do func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- do(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// listening is the address of a server that began to listen.
func listening(t *testing.T, serve func(ctx context.Context, addr string) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	run(t, func(ctx context.Context) error { return serve(ctx, addr) })
	for deadline := time.Now().Add(20 * time.Second); ; {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return "http://" + addr
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not listen")
		}
		<-time.After(10 * time.Millisecond)
	}
}

func load(t *testing.T, url string, via bench.Via) {
	t.Helper()
	const n = 50
	r, err := bench.Run(t.Context(), bench.Options{
		URL: url, Service: "echo", Via: via, Body: 1 << 10, Clients: 8, Requests: n, Duration: time.Minute, Timeout: time.Minute, PollEvery: 10 * time.Millisecond,
		Receiver: bench.Receiver{Unsigned: true},
	})
	if err != nil || r.Accepted != n || r.Doubled+r.Wrong+r.OutOfOrder+r.Errors > 0 || via != bench.Submit && r.Answered != n {
		t.Errorf("%s: %+v, %s, %v", via, r.Counts, r.FirstError, err)
	}
}

func TestChiAccepts(t *testing.T) { load(t, listening(t, floor.Chi), bench.Submit) }

// The limit does little, and that right: else it would be no measure.
func TestLimitAnswers(t *testing.T) {
	for _, readAll := range []bool{false, true} {
		t.Run(strconv.FormatBool(readAll), func(t *testing.T) {
			redis := redistest.Start(t)
			url := listening(t, func(ctx context.Context, addr string) error { return floor.Limit(ctx, addr, redis.URL, readAll) })
			load(t, url, bench.Submit)
			run(t, func(ctx context.Context) error { return floor.LimitWorker(ctx, redis.URL) })
			for _, via := range []bench.Via{bench.Poll, bench.Wait, bench.SSE, bench.Webhook} {
				load(t, url, via)
			}
			for _, stream := range []string{"limit:queue", "limit:replies"} {
				if n, err := redis.Client.XLen(t.Context(), stream).Result(); n > 0 && stream == "limit:queue" || err != nil {
					t.Errorf("%s has %d entries, %v", stream, n, err)
				}
			}
		})
	}
}

func TestXADDAdds(t *testing.T) {
	redis := redistest.Start(t)
	run(t, func(ctx context.Context) error { return floor.XADD(ctx, redis.Client.Options().Addr, 100) })
	for deadline := time.Now().Add(20 * time.Second); ; {
		n, err := redis.Client.XLen(t.Context(), floor.XADDStream).Result()
		if err != nil {
			t.Fatal(err)
		}
		if n > 1000 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d entries", n)
		}
	}
}
