package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Who is taken back by several steps stays before who comes between two of them, also where
// the line of the service has been in use before.
func TestTakenBackBeforeWhoComes(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		again := func(change func() error) {
			t.Helper()
			if err := change(); err != nil {
				t.Fatal(err)
			}
		}
		again(func() error { return b.Pause(t.Context(), "echo") })
		for i := range 100 {
			submit(t, b, fmt.Sprintf("a%03d", i))
		}
		again(func() error { return b.Resume(t.Context(), "echo") })
		regulate(t, b, "echo")
		for _, d := range take(t, b, 99) { // the last keeps the line
			send(t, b, d, broker.WorkerReply{Type: "final"})
		}
		settle(t, b)
		regulate(t, b, "echo")
		for i := range 300 {
			submit(t, b, fmt.Sprintf("b%03d", i))
		}
		redis.Client.HSet(t.Context(), "cc:paused", "echo", time.Now().UnixMilli())
		again(func() error { return broker.Refresh(t.Context(), b) })
		if more, err := b.Regulate(t.Context(), 0, "echo"); err != nil || !more {
			t.Fatalf("it is taken back at once: %v, %v", !more, err)
		}
		submit(t, b, "c")
		regulate(t, b, "echo")
		again(func() error { return b.Resume(t.Context(), "echo") })
		regulate(t, b, "echo")
		var got []string
		for _, d := range take(t, b, 500) {
			got = append(got, string(d.Body))
		}
		if len(got) != 302 || !slices.IsSorted(got) {
			at := slices.Index(got, "c")
			t.Errorf("of %d, who came last is number %d", len(got), at)
		}
	})
}

// A request that comes back after its line was closed has no place there any more.
func TestPlaceOfAnEarlierAttempt(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		pause := func(paused bool) {
			t.Helper()
			change := b.Resume
			if paused {
				change = b.Pause
			}
			if err := change(t.Context(), "echo"); err != nil {
				t.Fatal(err)
			}
			regulate(t, b, "echo")
		}
		pause(true)
		var last broker.Record
		for i := range 20 {
			last = submit(t, b, fmt.Sprint(i))
		}
		pause(false)
		for _, d := range take(t, b, 20) {
			if d.ID == last.ID.String() {
				send(t, b, d, broker.WorkerReply{Type: "retry", Delay: 100 * time.Millisecond})
			} else {
				send(t, b, d, broker.WorkerReply{Type: "final"})
			}
		}
		settle(t, b)
		regulate(t, b, "echo")
		for status(t, b, last.ID).Status == broker.Scheduled {
			if _, err := b.Decide(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
		pause(true)
		submit(t, b, "later")
		pause(false)
		if got := take(t, b, 2); len(got) != 2 || got[0].Attempt != 2 || string(got[1].Body) != "later" {
			t.Errorf("first came %+v", got)
		}
	})
}

// What is as it should be costs Redis no write, which an append-only file would have to sync.
func TestRegulatedTwiceIsWrittenOnce(t *testing.T) {
	redis := redistest.Start(t)
	b := open(t, redis, func(o *broker.Options) {
		o.Services = map[string]broker.ServiceConfig{"echo": {}, "two": {Concurrency: 2}}
	})
	if err := b.Pause(t.Context(), "echo"); err != nil {
		t.Fatal(err)
	}
	submit(t, b, "x")
	submit(t, b, "y", func(s *broker.Submission) { s.Service = "two" })
	changes := func() string {
		_, n, _ := strings.Cut(redis.Client.Info(t.Context(), "persistence").Val(), "rdb_changes_since_last_save:")
		n, _, _ = strings.Cut(n, "\r\n")
		return n
	}
	regulate(t, b, "echo")
	regulate(t, b, "two")
	before := changes()
	regulate(t, b, "echo")
	regulate(t, b, "two")
	if after := changes(); after != before || before == "" {
		t.Errorf("%s changes before, %s after", before, after)
	}
}

// One service whose line somebody wrote over must not keep the others from theirs.
func TestLineThatIsNone(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for _, key := range []string{"waiting", "line", "queue"} {
			redis.Client.Set(t.Context(), "cc:{0}:"+key+":"+key, "no "+key, 0)
			redis.Client.HSet(t.Context(), "cc:{0}:limits", key, 1)
			if more, err := b.Regulate(t.Context(), 0, key); err != nil || more {
				t.Errorf("%s: %v, %v", key, more, err)
			}
		}
	})
}
