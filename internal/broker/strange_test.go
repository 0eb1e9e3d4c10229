package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Whatever a worker writes where a number belongs, the replies around it are
// settled once, and its own request goes on.
func TestStrangeNumbers(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for _, text := range []string{"nan", "-nan", "inf", "-inf", "-1", "1e400", "0x10", " 5", "5 ", "five", "", "\x00", "1\n2", strings.Repeat("9", 400)} {
			t.Run(fmt.Sprintf("%.10q", text), func(t *testing.T) {
				other, r := submit(t, b, "other"), submit(t, b, "x")
				first, d := claim(t, b), claim(t, b)
				strange := func(kind string, more ...string) {
					t.Helper()
					values := append([]string{"token", d.Token, "type", kind, "delay", text, "seq", text, "status_code", text}, more...)
					if err := redis.Client.XAdd(t.Context(), xadd(d.ReplyTo, values...)).Err(); err != nil {
						t.Fatal(err)
					}
				}
				send(t, b, first, broker.WorkerReply{Type: "heartbeat"})
				send(t, b, first, broker.WorkerReply{Type: "progress", Body: []byte("once")})
				strange("progress")
				strange("retry")
				settle(t, b)
				if got := status(t, b, other.ID); got.Events != 1 {
					t.Errorf("the event before it is there %d times", got.Events)
				}
				if got := status(t, b, r.ID); got.Status != broker.Scheduled || got.Attempt != 2 {
					t.Errorf("after a strange retry: %s, attempt %d", got.Status, got.Attempt)
				}
				send(t, b, first, broker.WorkerReply{Type: "final"})
				r = submit(t, b, "y")
				d = claim(t, b)
				strange("progress")
				strange("final", "body", "here")
				settle(t, b)
				if got := status(t, b, r.ID); got.Status != broker.Succeeded || got.Reply.StatusCode != 200 || got.Events != 2 {
					t.Errorf("after a strange final reply: %+v", got)
				}
			})
		}
	})
}

// What no gateway wrote on the stream of a service is handed out like work, and then
// set aside with its cause. Nothing of it is believed.
func TestStrangeEntries(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		whole := submit(t, b, "x")
		d := claim(t, b)
		forged := "\noutcome " + whole.ID.String() + " echo succeeded - 1 1 1\n"
		strange := [][]string{
			{"none", "of ours"},
			{"id", forged, "token", forged},
			{"id", "nobody", "token", "nobody.1.0", "reply_to", d.ReplyTo},
			{"id", whole.ID.String(), "body", "a copy without its token"},
			{"\x00", strings.Repeat("\xff", 1000)},
		}
		for _, values := range strange {
			if err := redis.Client.XAdd(t.Context(), xadd("cc:{0}:queue:echo", values...)).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := b.Claim(t.Context(), "me", []string{"echo"}, 10, time.Millisecond); err != nil || len(got) != len(strange) {
			t.Fatalf("%d handed out, %v", len(got), err)
		}
		facts, next, err := b.Sweep(t.Context(), 0, "echo", "")
		if err != nil || next != "" || len(facts) != len(strange) {
			t.Errorf("found %v, %v", facts, err)
		}
		for _, f := range facts {
			if f.Kind != "garbage" || f.ID != "-" || f.Service != "echo" {
				t.Errorf("believed: %+v", f)
			}
		}
		aside, err := redis.Client.LRange(t.Context(), "cc:{0}:aside", 0, -1).Result()
		if err != nil || len(aside) != len(strange) || !strings.Contains(aside[0], " entry ") {
			t.Errorf("set aside: %q, %v", aside, err)
		}
		if got := status(t, b, whole.ID); got.Status != broker.Running || got.Attempt != 1 {
			t.Errorf("the request beside it is %s", got.Status)
		}
		send(t, b, d, broker.WorkerReply{Type: "final"})
		settle(t, b)
		if n := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}
