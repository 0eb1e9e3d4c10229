package pull_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/pull"
	"github.com/coatcheck/coatcheck/internal/quickredis"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counter has a desk in a bubble, and requests to hand over it.
type counter struct {
	*pull.Desk
	t      *testing.T
	broker *broker.Broker
	mini   *quickredis.Redis
	reads  atomic.Int64 // XREADGROUPs that Redis has seen
	away   atomic.Bool  // Redis refuses them
	slow   atomic.Bool  // it takes a second for each
	gone   sync.WaitGroup
}

func bubble(t *testing.T, test func(*testing.T, *counter), change ...func(*broker.Options)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &counter{t: t}
		mini, dial := redistest.Pipe(t)
		o := broker.Options{URL: "redis://pipe:1", Dial: dial, Logger: slog.New(slog.DiscardHandler), Services: map[string]broker.ServiceConfig{"echo": {}}}
		for _, set := range change {
			set(&o)
		}
		b, err := broker.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		mini.Hook(func(p *server.Peer, cmd string, _ ...string) bool {
			if cmd != "XREADGROUP" {
				return false
			}
			c.reads.Add(1)
			if c.slow.Load() {
				time.Sleep(time.Second)
			}
			if c.away.Load() {
				p.WriteError("LOADING Redis is loading the dataset in memory")
			}
			return c.away.Load()
		})
		c.Desk, c.broker, c.mini = pull.New(b, slog.New(slog.DiscardHandler)), b, mini
		ctx, stop := context.WithCancel(context.Background())
		c.gone.Go(func() { c.Run(ctx) })
		test(t, c)
		stop()
		c.gone.Wait()
		b.Close()
		mini.Close()
	})
}

func (c *counter) submit(bodies ...string) {
	c.t.Helper()
	for _, body := range bodies {
		c.submitTo("echo", body)
	}
}

func (c *counter) submitTo(service, body string) {
	c.t.Helper()
	if _, _, err := c.broker.Submit(c.t.Context(), broker.Submission{Tenant: broker.DefaultTenant, Service: service, Body: []byte(body)}); err != nil {
		c.t.Fatal(err)
	}
}

// answered is what became of a claim.
type answered struct {
	work []broker.Delivery
	err  error
	took time.Duration
}

func (a answered) String() string {
	var bodies []string
	for _, w := range a.work {
		bodies = append(bodies, string(w.Body[:min(len(w.Body), 10)]))
	}
	return strings.Join(bodies, " ")
}

// ask claims beside the test, and lets it get into its line.
func (c *counter) ask(ctx context.Context, n int, wait time.Duration) <-chan answered {
	c.t.Helper()
	return c.askFor(ctx, "echo", n, wait)
}

func (c *counter) askFor(ctx context.Context, service string, n int, wait time.Duration) <-chan answered {
	c.t.Helper()
	out, begun := make(chan answered, 1), time.Now()
	c.gone.Go(func() {
		work, err := c.Claim(ctx, service, n, wait)
		out <- answered{work, err, time.Since(begun)}
	})
	synctest.Wait()
	return out
}

// left is what a worker with Redis of its own finds: the body and attempt of all
// that nobody has.
func (c *counter) left() string {
	c.t.Helper()
	got, err := c.broker.Claim(c.t.Context(), "other", []string{"echo"}, 100, time.Millisecond)
	if err != nil {
		c.t.Fatal(err)
	}
	var all []string
	for _, w := range got {
		all = append(all, fmt.Sprintf("%s/%d", w.Body, w.Attempt))
	}
	return strings.Join(all, " ")
}

func TestWorkComesToWhoWaitsLongest(t *testing.T) {
	bubble(t, func(t *testing.T, c *counter) {
		first := c.ask(t.Context(), 1, time.Minute)
		second := c.ask(t.Context(), 1, time.Minute)
		third := c.ask(t.Context(), 1, 10*time.Second)
		time.Sleep(5 * time.Second)
		c.submit("a", "b")
		if a, b := <-first, <-second; a.String() != "a" || b.String() != "b" || a.took > 5*time.Second+100*time.Millisecond {
			t.Errorf("%s after %v, %s after %v", a, a.took, b, b.took)
		}
		if c.Waiting() != 1 {
			t.Errorf("%d wait", c.Waiting())
		}
		if a := <-third; a.work != nil || a.err != nil || a.took != 10*time.Second {
			t.Errorf("nothing was there for the third: %s, %v, after %v", a, a.err, a.took)
		}
		c.submit("c") // its read is over with its wait
		time.Sleep(2 * time.Second)
		if got := c.left(); got != "c/1" {
			t.Errorf("left for others: %q", got)
		}
	})
}

// Only as much is taken as was asked for; the rest is for others.
func TestOnlyFreeSlotsAreClaimed(t *testing.T) {
	bubble(t, func(t *testing.T, c *counter) {
		c.submit("a", "b", "c", "d", "e", "f")
		if a := <-c.ask(t.Context(), 1, time.Minute); a.String() != "a" {
			t.Errorf("one: %s", a)
		}
		if a := <-c.ask(t.Context(), 2, 0); a.String() != "b c" || a.took > time.Millisecond {
			t.Errorf("two at once: %s after %v", a, a.took)
		}
		if got := c.left(); got != "d/1 e/1 f/1" { // in their order: none was taken and put back
			t.Errorf("left for others: %q", got)
		}
	})
}

// One that asks for many is not kept waiting for the last.
func TestManyAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, c *counter) {
		waiting := c.ask(t.Context(), 10, time.Minute)
		c.submit("a") // alone, it wakes the read
		if a := <-waiting; a.String() != "a" || a.took > 100*time.Millisecond {
			t.Errorf("%s after %v", a, a.took)
		}
		var want []string
		for i := range 100 {
			c.submit(fmt.Sprint(i))
			want = append(want, fmt.Sprint(i))
		}
		if a := <-c.ask(t.Context(), 100, time.Minute); a.String() != strings.Join(want, " ") {
			t.Errorf("%s", a)
		}
		large := strings.Repeat("x", 3<<20)
		c.submit(large, large, large, large, large)
		if a := <-c.ask(t.Context(), 5, time.Minute); len(a.work) != 3 || !bytes.Equal(a.work[2].Body, []byte(large)) {
			t.Errorf("%d large ones", len(a.work))
		}
		if a := <-c.ask(t.Context(), 5, time.Minute); len(a.work) != 2 {
			t.Errorf("%d large ones are the rest", len(a.work))
		}
	})
}

// Who does not wait gets what is there, and is not held up by those who do.
func TestAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, c *counter) {
		if a := <-c.ask(t.Context(), 1, 0); a.work != nil || a.err != nil || a.took > time.Millisecond {
			t.Errorf("nothing: %s, %v, after %v", a, a.err, a.took)
		}
		waiting := c.ask(t.Context(), 1, time.Minute)
		if a := <-c.ask(t.Context(), 1, 0); a.work != nil || a.err != nil || a.took > time.Millisecond {
			t.Errorf("nothing, beside one who waits: %s, %v, after %v", a, a.err, a.took)
		}
		c.submit("a", "b")
		if a, b := <-waiting, <-c.ask(t.Context(), 1, 0); a.String() != "a" || b.String() != "b" {
			t.Errorf("%s, %s", a, b)
		}
	})
}

// However many wait, there is one read of a service at a time.
func TestOneReadForAll(t *testing.T) {
	bubble(t, func(t *testing.T, c *counter) {
		var all []<-chan answered
		for range 200 {
			all = append(all, c.ask(t.Context(), 1, 20*time.Second))
		}
		time.Sleep(10 * time.Second)
		if n := c.reads.Load(); n > 12 {
			t.Errorf("%d reads for 200 who wait 10 s", n)
		}
		pool := c.broker.Stats().Pool
		if busy := pool.Total - pool.Idle; busy > 4 {
			t.Errorf("%d connections for 200 who wait", busy)
		}
		for i := range 200 {
			c.submit(fmt.Sprint(i))
		}
		for i, got := range all {
			if a := <-got; a.String() != fmt.Sprint(i) {
				t.Errorf("%d got %s, %v", i, a, a.err)
			}
		}
	})
}

// Who hangs up while waiting leaves nothing claimed, and no attempt used up.
func TestWhoLeavesGivesBack(t *testing.T) {
	bubble(t, func(t *testing.T, c *counter) {
		ctx, hangUp := context.WithCancel(t.Context())
		gone, stays := c.ask(ctx, 1, time.Minute), c.ask(t.Context(), 1, time.Minute)
		hangUp()
		if a := <-gone; a.work != nil || !errors.Is(a.err, context.Canceled) || a.took != 0 {
			t.Errorf("%s, %v, after %v", a, a.err, a.took)
		}
		c.submit("a")
		if a := <-stays; a.String() != "a" || a.work[0].Attempt != 1 {
			t.Errorf("who stays got %s, %v", a, a.err)
		}
		ctx, hangUp = context.WithCancel(t.Context())
		c.ask(ctx, 5, time.Minute)
		hangUp()
		c.submit("b", "c") // the read that was for nobody takes the first
		time.Sleep(2 * time.Second)
		if got := c.left(); got != "c/1 b/1" && got != "b/1 c/1" {
			t.Errorf("left for others: %q", got)
		}
		if c.Waiting() != 0 {
			t.Errorf("%d wait", c.Waiting())
		}
	})
}

// Who hangs up while more is read for it gives back what it has.
func TestWhoLeavesHalfServed(t *testing.T) {
	bubble(t, func(t *testing.T, c *counter) {
		ctx, hangUp := context.WithCancel(t.Context())
		waiting := c.ask(ctx, 5, time.Minute)
		c.slow.Store(true)
		c.submit("a")
		time.Sleep(500 * time.Millisecond) // it has one, and Redis looks for another
		hangUp()
		if a := <-waiting; a.work != nil || !errors.Is(a.err, context.Canceled) {
			t.Errorf("%s, %v", a, a.err)
		}
		c.slow.Store(false)
		time.Sleep(2 * time.Second)
		if got := c.left(); got != "a/1" {
			t.Errorf("left for others: %q", got)
		}
	})
}

// Who hangs up with work in hand gives that back too.
func TestWhoLeavesAtTheLastMoment(t *testing.T) {
	bubble(t, func(t *testing.T, c *counter) {
		c.submit("a", "b", "c")
		ctx, hangUp := context.WithCancel(t.Context())
		hangUp()
		for range 5 { // ready and gone at once: either way nothing is held
			if a := <-c.ask(ctx, 2, time.Minute); a.work != nil || !errors.Is(a.err, context.Canceled) {
				t.Errorf("%s, %v", a, a.err)
			}
		}
		time.Sleep(2 * time.Second)
		got := c.left()
		for _, want := range []string{"a/1", "b/1", "c/1"} {
			if !strings.Contains(got, want) {
				t.Errorf("left for others: %q", got)
			}
		}
	})
}

func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T, c *counter) {
		first, second := c.ask(t.Context(), 1, time.Minute), c.ask(t.Context(), 1, time.Minute)
		time.Sleep(500 * time.Millisecond)
		c.Drain()
		for _, waiting := range []<-chan answered{first, second} {
			if a := <-waiting; a.work != nil || a.err != nil || a.took > 1100*time.Millisecond {
				t.Errorf("%s, %v, after %v", a, a.err, a.took)
			}
		}
		c.submit("a")
		if a := <-c.ask(t.Context(), 1, time.Minute); a.work != nil || a.err != nil || a.took != 0 {
			t.Errorf("after the drain: %s, %v, after %v", a, a.err, a.took)
		}
		if got := c.left(); got != "a/1" {
			t.Errorf("left for others: %q", got)
		}
	})
}

// What a read that is under way still brings goes to who waited for it.
func TestDrainWithWorkOnItsWay(t *testing.T) {
	bubble(t, func(t *testing.T, c *counter) {
		first, second := c.ask(t.Context(), 1, time.Minute), c.ask(t.Context(), 1, time.Minute)
		c.Drain()
		c.submit("a")
		if a, b := <-first, <-second; a.String() != "a" || b.work != nil || b.err != nil {
			t.Errorf("%s, %s, %v", a, b, b.err)
		}
	})
}

func TestRedisAway(t *testing.T) {
	bubble(t, func(t *testing.T, c *counter) {
		waiting := []<-chan answered{c.ask(t.Context(), 1, time.Minute), c.ask(t.Context(), 5, time.Minute)}
		c.away.Store(true)
		for _, w := range append(waiting, c.ask(t.Context(), 1, time.Minute)) {
			if a := <-w; a.work != nil || !errors.Is(a.err, broker.ErrUnavailable) || a.took > 1100*time.Millisecond {
				t.Errorf("%s, %v, after %v", a, a.err, a.took)
			}
		}
		c.away.Store(false)
		c.submit("a")
		if a := <-c.ask(t.Context(), 1, time.Minute); a.String() != "a" {
			t.Errorf("%s, %v", a, a.err)
		}
	})
}

// The blocked reads leave connections to others, however many services there are.
func TestManyServices(t *testing.T) {
	many := map[string]broker.ServiceConfig{}
	for i := range 150 {
		many[fmt.Sprint("s", i)] = broker.ServiceConfig{}
	}
	bubble(t, func(t *testing.T, c *counter) {
		all := map[string]<-chan answered{}
		for service := range many {
			all[service] = c.askFor(t.Context(), service, 1, time.Minute)
		}
		time.Sleep(3*time.Second + 100*time.Millisecond) // between the looks of those who have no read
		pool := c.broker.Stats().Pool
		if busy := pool.Total - pool.Idle; busy > 140 {
			t.Errorf("%d connections are busy", busy)
		}
		for service := range many {
			c.submitTo(service, service)
		}
		for service, got := range all {
			if a := <-got; a.String() != service || a.took > 4*time.Second {
				t.Errorf("%s got %s, %v, after %v", service, a, a.err, a.took)
			}
		}
	}, func(o *broker.Options) { o.Services = many })
}

// Several desks and a worker with Redis share the work of several partitions:
// each request is somebody's, once.
func TestOverSockets(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		quiet := slog.New(slog.DiscardHandler)
		const requests = 300
		var all sync.WaitGroup
		ctx, stop := context.WithCancel(context.Background())
		var mu sync.Mutex
		seen := map[string]int{}
		take := func(work []broker.Delivery) bool {
			mu.Lock()
			defer mu.Unlock()
			for _, w := range work {
				seen[string(w.Body)]++
			}
			return len(seen) >= requests
		}
		done := make(chan struct{})
		var once sync.Once
		var first *broker.Broker
		for range 2 {
			b, err := broker.Open(t.Context(), broker.Options{URL: r.URL, Logger: quiet, Partitions: 3, Services: map[string]broker.ServiceConfig{"echo": {}}})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if first == nil {
				first = b
			}
			d := pull.New(b, quiet)
			all.Go(func() { d.Run(ctx) })
			for i := range 10 {
				all.Go(func() {
					for ctx.Err() == nil {
						work, err := d.Claim(ctx, "echo", 1+i%3, 2*time.Second)
						if err != nil && ctx.Err() == nil {
							t.Error(err)
						}
						if len(work) > 1+i%3 {
							t.Errorf("%d were claimed where %d were asked for", len(work), 1+i%3)
						}
						if take(work) {
							once.Do(func() { close(done) })
						}
					}
				})
			}
			all.Go(func() {
				for ctx.Err() == nil {
					work, err := b.Claim(ctx, b.Name(), []string{"echo"}, 2, 500*time.Millisecond)
					if err != nil && ctx.Err() == nil {
						t.Error(err)
					}
					if take(work) {
						once.Do(func() { close(done) })
					}
				}
			})
		}
		for i := range requests {
			if _, _, err := first.Submit(t.Context(), broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Body: []byte(fmt.Sprint(i))}); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Error("not all were handed out")
		}
		stop()
		all.Wait()
		for body, n := range seen {
			if n != 1 {
				t.Errorf("%s was handed out %d times", body, n)
			}
		}
	})
}
