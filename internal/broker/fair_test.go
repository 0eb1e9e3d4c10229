package broker_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func flow(name string, p broker.Priority) func(*broker.Submission) {
	return func(s *broker.Submission) { s.Tenant, s.Priority = name, p }
}

// of picks the bodies of one flow, in the order in which they ran.
func of(ran []string, prefix string) (own []string) {
	for _, body := range ran {
		if strings.HasPrefix(body, prefix) {
			own = append(own, body)
		}
	}
	return own
}

// Whatever is taken back from the stream, and however often: a flow keeps its
// order, and who comes late is not put behind it.
func TestTakenBackKeepsItsPlace(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for i := range 150 { // 64 of them go to the stream, before anybody has looked
			submit(t, b, fmt.Sprintf("acme %03d", i), flow("acme", ""))
		}
		var ran []string
		for range 3 {
			held := take(t, b, 7) // more running: a higher limit
			regulate(t, b, "echo")
			for _, d := range held {
				ran = append(ran, string(d.Body))
				send(t, b, d, broker.WorkerReply{Type: "final"})
			}
			settle(t, b)
			regulate(t, b, "echo") // fewer: a lower one
			if err := b.Pause(t.Context(), "echo"); err != nil {
				t.Fatal(err)
			}
			if n := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val(); n != 0 {
				t.Fatalf("%d entries are left on the stream", n)
			}
			if err := b.Resume(t.Context(), "echo"); err != nil {
				t.Fatal(err)
			}
		}
		submit(t, b, "other", flow("other", ""))
		ran = append(ran, serve(t, b)...)
		if own := of(ran, "acme"); len(own) != 150 || !slices.IsSorted(own) {
			t.Errorf("one flow ran in the order %v", own)
		}
		if at := slices.Index(ran, "other"); at < 21 || at > 45 {
			t.Errorf("the first of another tenant ran as number %d, after 21 had run", at)
		}
	})
}

// What stood on the stream before anybody needed a line keeps its order too, and
// does not go before all that is urgent.
func TestOlderThanTheLine(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for i := range 300 {
			submit(t, b, fmt.Sprintf("normal %03d", i))
		}
		submit(t, b, "high", flow(broker.DefaultTenant, broker.PriorityHigh))
		for i := range 20 {
			submit(t, b, fmt.Sprintf("normal %03d", 300+i))
		}
		ran := serve(t, b)
		if at := slices.Index(ran, "high"); at < 0 || at > 20 {
			t.Errorf("high ran as number %d", at)
		}
		if own := of(ran, "normal"); len(own) != 320 || !slices.IsSorted(own) {
			t.Errorf("normal ran in the order %v", own)
		}
	})
}

// What is taken back was not claimed, and does not count as such.
func TestTakenBackIsNotClaimed(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for range 20 {
			submit(t, b, "x")
		}
		for range 3 {
			if err := b.Pause(t.Context(), "echo"); err != nil {
				t.Fatal(err)
			}
			if err := b.Resume(t.Context(), "echo"); err != nil {
				t.Fatal(err)
			}
		}
		regulate(t, b, "echo")
		if n := redis.Client.HGet(t.Context(), "cc:{0}:counts", "a:echo").Val(); n != "20" {
			t.Errorf("%s count as added to the stream, want the 20 that are on it", n)
		}
	})
}

// The limit follows the workers up and down; that alone moves nothing that is on
// the stream already back and forth.
func TestALimitThatFollowsMovesLittle(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for i := range 400 {
			submit(t, b, fmt.Sprintf("%03d", i), flow("acme", ""))
		}
		regulate(t, b, "echo")
		held := take(t, b, 5)
		regulate(t, b, "echo")
		before := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val()
		for _, d := range held {
			send(t, b, d, broker.WorkerReply{Type: "final"})
		}
		settle(t, b)
		regulate(t, b, "echo")
		if after := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val(); after < before-5 {
			t.Errorf("%d were on the stream, and %d are", before, after)
		}
		if got := serve(t, b); len(got) != 395 || !slices.IsSorted(got) {
			t.Errorf("ran %d: %v", len(got), got)
		}
	})
}

// A pause does not read the whole stream into one script.
func TestPauseOfLargeBodies(t *testing.T) {
	redis := redistest.Start(t)
	b := open(t, redis)
	body := strings.Repeat("x", 4<<20)
	for i := range 30 {
		submit(t, b, fmt.Sprint(i, body))
	}
	if err := b.Pause(t.Context(), "echo"); err != nil {
		t.Fatal(err)
	}
	if n := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val(); n != 0 {
		t.Errorf("%d are left on the stream", n)
	}
	memory := redis.Client.InfoMap(t.Context(), "memory").Val()["Memory"]
	if used, err := strconv.Atoi(memory["used_memory_vm_eval"]); err != nil || used > 64<<20 {
		t.Errorf("the scripts hold %d bytes, %v", used, err)
	}
	if err := b.Resume(t.Context(), "echo"); err != nil {
		t.Fatal(err)
	}
	if got := serve(t, b); len(got) != 30 || !cmp.Equal(got[29], "29"+body) {
		t.Errorf("%d came back", len(got))
	}
}
