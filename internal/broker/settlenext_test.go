package broker_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// What comes while somebody waits for it is settled by then; so is what was there before.
func TestSettleNext(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		next := func(block time.Duration) (kinds []string) {
			for more := true; more; { // the first time, one is read
				facts, left, err := b.SettleNext(t.Context(), 0, block)
				if err != nil {
					t.Error(err)
				}
				for _, f := range facts {
					kinds = append(kinds, f.Kind)
				}
				more, block = left, time.Millisecond
			}
			return kinds
		}
		if got := next(time.Millisecond); got != nil {
			t.Errorf("of nothing it settled %v", got)
		}
		answer := func() {
			submit(t, b, "x")
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		}
		found := make(chan []string)
		go func() {
			for {
				if kinds := next(time.Second); kinds != nil {
					found <- kinds
					return
				}
			}
		}()
		answer()
		if got := <-found; !slices.Equal(got, []string{"outcome"}) {
			t.Errorf("while it waited it settled %v", got)
		}
		answer()
		answer()
		if err := redis.Client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if got := next(time.Second); !slices.Equal(got, []string{"outcome", "outcome"}) {
			t.Errorf("without its scripts it settled %v", got)
		}
	})
}

// Whoever waits for an outcome looks again where the answer of the script that stored it
// was lost.
func TestSettleWithoutAnAnswer(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		proxy := redis.Proxy(t)
		b, other := open(t, redis, func(o *broker.Options) { o.URL = proxy.URL }), open(t, redis)
		for kind, reply := range map[string]broker.WorkerReply{"plain": {Type: "final"}, "other": {Type: "failed"}} {
			proxy.Heal()
			_, resumed := hear(t, b)
			<-resumed
			id := submit(t, other, "x").ID
			send(t, other, claim(t, other), reply)
			proxy.Lose(func(sent []byte) bool { return bytes.Contains(sent, []byte("evalsha\r\n")) })
			if _, _, err := b.SettleNext(t.Context(), 0, time.Second); err == nil {
				t.Fatalf("%s: the answer was not lost", kind)
			}
			select {
			case <-resumed:
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: nobody was told to look again", kind)
			}
			for end := time.Now().Add(10 * time.Second); !status(t, other, id).Status.Terminal(); { // the link may be lost before the script is over
				if time.Now().After(end) {
					t.Fatalf("%s: the reply is not settled", kind)
				}
			}
		}
	})
}
