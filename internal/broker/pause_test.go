package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A pause holds in partitions that are added later, by a gateway that was not
// there when it began.
func TestPauseOfAddedPartitions(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		a := open(t, redis)
		if err := a.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		b := open(t, redis, func(o *broker.Options) { o.Partitions = 4 })
		if b.Paused("echo").IsZero() {
			t.Error("a gateway starts, and does not know of the pause")
		}
		for i := range 20 {
			submit(t, b, fmt.Sprint(i))
		}
		regulate(t, b, "echo")
		if got := take(t, b, 10); len(got) != 0 {
			t.Fatalf("a paused service gave out %s", got[0].Body)
		}
		if err := a.Resume(t.Context(), "echo"); err != nil { // it has not heard of the raise yet
			t.Fatal(err)
		}
		if got := serve(t, b); len(got) != 20 {
			t.Errorf("after the pause ran %v", got)
		}
	})
}

// A pause survives that Redis loses everything, while a gateway lives.
func TestPauseAfterAFlush(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Partitions = 2 })
		if err := b.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		since := b.Paused("echo")
		redis.Client.FlushAll(t.Context())
		fresh := open(t, redis, func(o *broker.Options) { o.Partitions = 2 }) // founds the data anew, and knows of no pause
		if err := broker.Refresh(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if got := b.Paused("echo"); !got.Equal(since) {
			t.Errorf("paused since %v, was since %v", got, since)
		}
		for i := range 10 {
			submit(t, fresh, fmt.Sprint(i))
		}
		if got := take(t, fresh, 10); len(got) != 0 {
			t.Errorf("a paused service gave out %s", got[0].Body)
		}
	})
}

// A gateway that ends before it has told all partitions of a pause, or of its end, leaves
// that to the stewards.
func TestPauseThatWasToldToNobody(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Partitions = 2 })
		tend := func() {
			t.Helper()
			if err := broker.Refresh(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			for p := range b.Partitions() {
				services, err := b.Regulated(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				if slices.Contains(services, "echo") {
					regulate(t, b, "echo")
				}
			}
		}
		for i := range 20 {
			submit(t, b, fmt.Sprint(i))
		}
		redis.Client.HSet(t.Context(), "cc:paused", "echo", time.Now().UnixMilli())
		tend()
		if got := take(t, b, 10); len(got) != 0 {
			t.Fatalf("a paused service gave out %s", got[0].Body)
		}
		redis.Client.HDel(t.Context(), "cc:paused", "echo")
		tend()
		if got := serve(t, b); len(got) != 20 {
			t.Errorf("after the pause ran %v", got)
		}
	})
}

// Those who pause and resume a service for ever keep nobody from coming to an end, and the
// last word holds in all partitions once their stewards have looked.
func TestPauseInAnEndlessQuarrel(t *testing.T) {
	for _, last := range []bool{true, false} {
		redis := redistest.Start(t)
		proxy := redis.Proxy(t)
		b := open(t, &redistest.Redis{URL: proxy.URL}, func(o *broker.Options) { o.Partitions = 2 })
		say := func(paused bool) {
			if redis.Client.HDel(t.Context(), "cc:paused", "echo"); paused {
				redis.Client.HSet(t.Context(), "cc:paused", "echo", time.Now().UnixMilli())
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		looks := 0
		proxy.Lose(func(sent []byte) bool {
			if bytes.Contains(sent, []byte("hexists")) { // each look finds the contrary
				if looks++; looks > 100 {
					stop()
				}
				say(looks%2 == 0)
			}
			return false
		})
		if err := b.Pause(ctx, "echo"); err != nil {
			t.Fatalf("after %d looks: %v", looks, err)
		}
		proxy.Heal()
		say(last)
		if err := broker.Refresh(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		regulate(t, b, "echo")
		for _, tag := range strings.Split(redis.Client.HGet(t.Context(), "cc:config", "tags").Val(), ",") {
			if here := redis.Client.HExists(t.Context(), "cc:{"+tag+"}:limits", "paused:echo").Val(); here != last {
				t.Errorf("paused: %v, in the partition with the tag %s: %v", last, tag, here)
			}
		}
	}
}

// Of two who say different things at once one has its way, in all partitions.
func TestPauseAgainstResume(t *testing.T) {
	redis := redistest.Start(t)
	b := open(t, redis, func(o *broker.Options) { o.Partitions = 8 })
	other := open(t, redis)
	tags := strings.Split(redis.Client.HGet(t.Context(), "cc:config", "tags").Val(), ",")
	for range 20 {
		var both sync.WaitGroup
		both.Go(func() { _ = b.Pause(t.Context(), "echo") })
		both.Go(func() { _ = other.Resume(t.Context(), "echo") })
		both.Wait()
		paused := redis.Client.HExists(t.Context(), "cc:paused", "echo").Val()
		for _, tag := range tags {
			if here := redis.Client.HExists(t.Context(), "cc:{"+tag+"}:limits", "paused:echo").Val(); here != paused {
				t.Fatalf("paused: %v, in the partition with the tag %s: %v", paused, tag, here)
			}
		}
	}
}

// Ten thousand are taken back before Pause returns, and come again in their order.
func TestPauseOfManyRequests(t *testing.T) {
	redis := redistest.Start(t)
	b := open(t, redis)
	var all sync.WaitGroup
	const n = 10_000
	for lane := range 20 {
		all.Go(func() {
			for i := range n / 20 {
				_, _, err := b.Submit(t.Context(), broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Body: fmt.Appendf(nil, "%02d %03d", lane, i)})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	began := time.Now()
	if err := b.Pause(t.Context(), "echo"); err != nil {
		t.Fatal(err)
	}
	paused := time.Now()
	if got := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val(); got != 0 {
		t.Fatalf("%d are left on the stream", got)
	}
	if err := b.Resume(t.Context(), "echo"); err != nil {
		t.Fatal(err)
	}
	regulate(t, b, "echo")
	t.Logf("%d taken back in %v, released in %v", n, paused.Sub(began), time.Since(paused))
	lanes := map[string][]string{}
	for got := take(t, b, 1000); len(got) > 0; got = take(t, b, 1000) {
		for _, d := range got {
			lane := string(d.Body[:2])
			lanes[lane] = append(lanes[lane], string(d.Body))
		}
	}
	for lane, ran := range lanes {
		if len(ran) != n/20 || !slices.IsSorted(ran) {
			t.Errorf("lane %s ran %d, in its order %v", lane, len(ran), slices.IsSorted(ran))
		}
	}
	for _, slow := range redis.Client.SlowLogGet(t.Context(), 1).Val() {
		t.Logf("one step took %v", slow.Duration) // 50 ms on a machine that does nothing else
	}
}

// What a resume sent that was given up, and what comes late, leaves a later pause as it is:
// in what all share, and in the partitions.
func TestLateResume(t *testing.T) {
	for name, late := range givenUp("resume") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			b := open(t, redis)
			if err := b.Pause(t.Context(), "echo"); err != nil {
				t.Fatal(err)
			}
			comesLate(t, redis, (*broker.Broker).Resume, late, func() error { return b.Pause(t.Context(), "echo") })
			checkPaused(t, redis, true)
		})
	}
}

// And what a pause sent that was given up pauses nothing that was resumed since: a partition
// for no longer than until its steward looks.
func TestLatePause(t *testing.T) {
	for name, late := range givenUp("pause") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			b := open(t, redis)
			comesLate(t, redis, (*broker.Broker).Pause, late, func() error { return b.Resume(t.Context(), "echo") })
			if err := broker.Refresh(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			regulate(t, b, "echo")
			checkPaused(t, redis, false)
		})
	}
}

// givenUp are the commands of a pause or a resume by what they are for.
func givenUp(change string) map[string]func(sent []byte) bool {
	return map[string]func(sent []byte) bool{
		"for all": func(sent []byte) bool {
			return bytes.Contains(sent, []byte("$9\r\ncc:paused\r\n$")) && bytes.Contains(sent, []byte("evalsha"))
		},
		"for a partition": func(sent []byte) bool { return bytes.Contains(sent, []byte("\r\n"+change+"\r\n")) },
	}
}

// comesLate has a gateway do something to the service that it gives up, since the command
// that late names is held up; that arrives after then.
func comesLate(t *testing.T, redis *redistest.Redis, do func(*broker.Broker, context.Context, string) error, late func(sent []byte) bool, then func() error) {
	t.Helper()
	proxy := redis.Proxy(t)
	a := open(t, &redistest.Redis{URL: proxy.URL})
	under, arrives := make(chan struct{}), make(chan struct{})
	var once sync.Once
	proxy.Lose(func(sent []byte) bool {
		if late(sent) {
			once.Do(func() { close(under); <-arrives })
		}
		return false
	})
	ctx, give := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer give()
	if err := do(a, ctx, "echo"); !errors.Is(err, broker.ErrUnavailable) {
		t.Fatalf("it was not given up: %v", err)
	}
	<-under
	if err := then(); err != nil {
		t.Fatal(err)
	}
	calls := func() string {
		_, n, _ := strings.Cut(redis.Client.Info(t.Context(), "commandstats").Val(), "cmdstat_evalsha:calls=")
		n, _, _ = strings.Cut(n, ",")
		return n
	}
	before := calls()
	close(arrives)
	soon(t, "it arrives", func() error {
		if calls() == before {
			return errors.New("not yet")
		}
		return nil
	})
}

// checkPaused holds what all share, and what the only partition heard, to want.
func checkPaused(t *testing.T, redis *redistest.Redis, want bool) {
	t.Helper()
	for key, field := range map[string]string{"cc:paused": "echo", "cc:{0}:limits": "paused:echo"} {
		if got := redis.Client.HExists(t.Context(), key, field).Val(); got != want {
			t.Errorf("%s says that it is paused: %v", key, got)
		}
	}
}

// A clock of Redis that was set back, as by a failover, keeps no service paused.
func TestResumeAfterTheClockWasSetBack(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		if err := b.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		now, err := b.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ahead := now.Add(time.Hour)
		redis.Client.HSet(t.Context(), "cc:paused", "echo", ahead.UnixMilli())
		redis.Client.HSet(t.Context(), "cc:{0}:limits", "paused:echo", ahead.UnixMicro())
		if err := b.Resume(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		if redis.Client.HExists(t.Context(), "cc:paused", "echo").Val() || redis.Client.HExists(t.Context(), "cc:{0}:limits", "paused:echo").Val() {
			t.Error("it is still paused")
		}
	})
}

// Who wrote by hand that a service is paused need not have said since when.
func TestPauseOfWhatIsPausedByHand(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		submit(t, b, "x")
		redis.Client.HSet(t.Context(), "cc:paused", "echo", "yes")
		if err := b.Pause(t.Context(), "echo"); err != nil || b.Paused("echo").IsZero() {
			t.Errorf("paused since %v, %v", b.Paused("echo"), err)
		}
	})
}
