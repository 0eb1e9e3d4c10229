package broker_test

import (
	"fmt"
	"strings"
	"testing"

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
