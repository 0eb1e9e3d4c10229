package broker_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Final replies of a judged service are settled as judged, in their order and
// once; those of other services, and other replies, are not shown to anybody.
func TestJudge(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		var seen atomic.Int64
		b := open(t, redis, func(o *broker.Options) {
			o.Services["free"] = broker.ServiceConfig{}
			o.Judge = broker.Judge{Services: []string{"echo"}, Reply: func(_ context.Context, r broker.FinalReply) broker.Verdict {
				seen.Add(1)
				if r.Service != "echo" || r.ContentType != "text/plain" {
					t.Errorf("judged %+v", r)
				}
				switch string(r.Body) {
				case "bad":
					return broker.Verdict{Fail: &broker.Error{Code: "schema", Message: "It is bad."}}
				case "plain":
					return broker.Verdict{Change: &broker.Reply{ContentType: "text/better", StatusCode: 201, Body: []byte("better")}}
				}
				return broker.Verdict{}
			}}
		})
		const n = 50 // more than are judged at once
		var requests []broker.Record
		bodies := []string{"good", "bad", "plain"}
		for i := range n {
			requests = append(requests, submit(t, b, fmt.Sprint(i)))
			d := claim(t, b)
			send(t, b, d, broker.WorkerReply{Type: "progress", ContentType: "text/other", Body: []byte("half"), Seq: 1})
			final := broker.WorkerReply{Type: "final", ContentType: "text/plain", Body: []byte(bodies[i%3]), Seq: 2}
			send(t, b, d, final)
			send(t, b, d, final)
		}
		free := submit(t, b, "x", func(s *broker.Submission) { s.Service = "free" })
		got, err := b.Claim(t.Context(), "w1", []string{"free"}, 1, 0)
		if err != nil || len(got) != 1 {
			t.Fatal(err)
		}
		send(t, b, got[0], broker.WorkerReply{Type: "final", ContentType: "text/free", Body: []byte("bad")})
		settle(t, b)
		for i, r := range requests {
			r := status(t, b, r.ID)
			switch bodies[i%3] {
			case "good":
				if r.Status != broker.Succeeded || string(r.Reply.Body) != "good" || r.Reply.ContentType != "text/plain" || r.Events != 2 {
					t.Errorf("%d: %+v, reply %+v", i, r, r.Reply)
				}
			case "bad":
				if r.Status != broker.Failed || r.Reason != "intercepted" || r.Error.Code != "schema" || r.Reply != nil {
					t.Errorf("%d: %+v", i, r)
				}
			case "plain":
				if r.Status != broker.Succeeded || string(r.Reply.Body) != "better" || r.Reply.StatusCode != 201 || r.Reply.ContentType != "text/better" {
					t.Errorf("%d: %+v, reply %+v", i, r, r.Reply)
				}
			}
		}
		if r := status(t, b, free.ID); r.Status != broker.Succeeded {
			t.Errorf("a service that is not judged: %s", r.Status)
		}
		if seen.Load() < n || seen.Load() > 2*n {
			t.Errorf("judged %d times", seen.Load())
		}
	})
}
