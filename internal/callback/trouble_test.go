package callback

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// Who wants to hear of trouble only is told of that, once, and of nothing else;
// and no callback has a reply that its client did not want.
func TestTellsOfTroubleOnly(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var receiver told
		b.net.receive("r.example", receiver.answer(t, 204))
		stop := b.run(b.deliverer(b.Broker))
		submit := func(minimal bool, attempts int) broker.Record {
			t.Helper()
			r, _, err := b.Submit(t.Context(), broker.Submission{
				Tenant: broker.DefaultTenant, Service: "echo", Minimal: minimal, MaxAttempts: attempts, Timeout: time.Minute, Backoff: 10 * time.Millisecond,
				Callback: &broker.Callback{URL: "http://r.example/", Events: []string{"failed", "timed_out"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		work := func(replies ...broker.WorkerReply) {
			t.Helper()
			got, err := b.Claim(t.Context(), "w", []string{"echo"}, 1, time.Second)
			if err != nil || len(got) != 1 {
				t.Fatal(got, err)
			}
			for _, r := range replies {
				b.reply(got[0], r)
			}
		}
		want := []string{}
		told := func(r broker.Record, outcome, message string) {
			want = append(want, fmt.Sprintf("request.%s %s %s", outcome, r.ID, message))
		}
		final := broker.WorkerReply{Type: "final", Body: []byte("fine")}
		submit(false, 1)
		work(broker.WorkerReply{Type: "progress"}, final)
		r := submit(false, 1)
		work(broker.WorkerReply{Type: "failed", Error: &broker.Error{Message: "out of paper"}, Body: []byte("story")})
		told(r, "failed", "out of paper, with a reply")
		r = submit(true, 1)
		work(broker.WorkerReply{Type: "failed", Error: &broker.Error{Message: "out of ink"}, Body: []byte("story")})
		told(r, "failed", "out of ink")
		r = submit(false, 1)
		if _, err := b.Cancel(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		r = submit(false, 2)
		work(broker.WorkerReply{Type: "retry"})
		time.Sleep(2 * time.Minute)
		if _, err := b.Decide(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		told(r, "timed_out", "")
		time.Sleep(5 * time.Second)
		stop()

		got := []string{}
		for _, c := range receiver.all() {
			line := ""
			for _, field := range []string{`"type":"`, `"correlation_id":"`, `"message":"`} {
				_, rest, _ := strings.Cut(c.body, field)
				value, _, _ := strings.Cut(rest, `"`)
				if field == `"message":"` && strings.Contains(line, "timed_out") {
					value = "" // the gateway's own words
				}
				line += value + " "
			}
			line = strings.TrimSuffix(line, " ")
			if strings.Contains(c.body, `"reply":{`) {
				line += ", with a reply"
			}
			got = append(got, line)
		}
		slices.Sort(want) // callbacks of several requests come in any order
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		if left := b.owed(b.Broker); len(left) != 0 {
			t.Errorf("still owed: %v", left)
		}
	})
}
