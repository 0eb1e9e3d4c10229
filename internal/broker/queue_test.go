package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// TestAnIdleServiceStartsAtOnce: that little was asked of a service does not
// mean that it can't do more.
func TestAnIdleServiceStartsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini, dial := redistest.Pipe(t)
		defer mini.Close()
		b := open(t, &redistest.Redis{URL: "redis://pipe:1"}, func(o *broker.Options) { o.Dial = dial })
		defer b.Close()
		for range 10 { // one a minute, each answered at once
			r := submit(t, b, "x")
			if seconds := b.RetryAfter(t.Context(), r); seconds > 2 {
				t.Errorf("Retry-After %d, with nobody ahead", seconds)
			}
			if _, start, _ := b.Position(t.Context(), r); time.Until(start) > 2*time.Second {
				t.Errorf("starts in %v, with nobody ahead", time.Until(start))
			}
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
			settle(t, b)
			time.Sleep(time.Minute)
		}
	})
}

// TestAQueueMovesAsFastAsItDid: the estimate is from what the workers took while
// there was a line.
func TestAQueueMovesAsFastAsItDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini, dial := redistest.Pipe(t)
		defer mini.Close()
		b := open(t, &redistest.Redis{URL: "redis://pipe:1"}, func(o *broker.Options) { o.Dial = dial })
		defer b.Close()
		var last broker.Record
		for range 120 {
			last = submit(t, b, "x")
		}
		for range 20 { // two a second
			b.RetryAfter(t.Context(), last)
			for range 2 {
				send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
			}
			settle(t, b)
			time.Sleep(time.Second)
		}
		seconds := b.RetryAfter(t.Context(), last) // 80 are left
		if _, start, ok := b.Position(t.Context(), last); !ok || seconds < 30 || seconds > 50 || time.Until(start) < 30*time.Second {
			t.Errorf("Retry-After %d, starts in %v: want about 40 s", seconds, time.Until(start))
		}
	})
}
