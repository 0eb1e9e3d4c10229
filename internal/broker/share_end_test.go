package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func runOf(r broker.Record) string { return "cc:{0}:request:" + r.ID.String() + "/0" }

func calling(events ...string) func(*broker.Submission) {
	return func(s *broker.Submission) { s.Callback = &broker.Callback{URL: "http://x/", Events: events} }
}

// pass waits until Redis' clock is beyond an instant.
func pass(t testing.TB, b *broker.Broker, at time.Time) {
	t.Helper()
	for {
		now, err := b.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if now.After(at.Add(time.Millisecond)) {
			return
		}
	}
}

// A shared run can be had over HTTP as any work: held, put back, handed over, and
// answered by its token.
func TestSharePulled(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		first, second := submit(t, b, "x"), submit(t, b, "x")
		held := reserve(t, b)
		if r := status(t, b, second.ID); r.Status != broker.Queued {
			t.Errorf("held, it is %s", r.Status)
		}
		if err := b.Unclaim(t.Context(), held); err != nil {
			t.Fatal(err)
		}
		handed := entrust(t, b, reserve(t, b))
		if len(handed) != 1 {
			t.Fatal("it was not handed over")
		}
		token := broker.ClaimToken(handed[0])
		for _, kind := range []string{"progress", "final"} {
			if id, _, err := b.Answer(t.Context(), token, broker.WorkerReply{Type: kind, Body: []byte(kind)}); err != nil || id != first.ID {
				t.Errorf("%s of %s: %v", kind, id, err)
			}
		}
		settle(t, b)
		for _, id := range []correlation.ID{first.ID, second.ID} {
			if r := status(t, b, id); r.Status != broker.Succeeded || replyOf(r) != "final" || r.Attempt != 1 || r.Events != 2 {
				t.Errorf("it is %+v", r)
			}
		}
	})
}

// A time to cache that is none, or beyond all measure, stops nobody's reply.
func TestStrangeCacheTTL(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		for ttl, next := range map[string]string{"0.4": broker.CacheMiss, "-5": broker.CacheHit, "nan": broker.CacheHit, "999999999999999": broker.CacheHit} {
			first, second := submit(t, b, ttl), submit(t, b, ttl)
			d := claim(t, b)
			if err := redis.Client.Do(t.Context(), "XADD", d.ReplyTo, "*", "token", d.Token, "type", "final", "cache_ttl", ttl, "body", "r").Err(); err != nil {
				t.Fatal(err)
			}
			settle(t, b)
			for _, id := range []correlation.ID{first.ID, second.ID} {
				if r := status(t, b, id); r.Status != broker.Succeeded {
					t.Errorf("with %s it is %s", ttl, r.Status)
				}
			}
			if left := redis.Client.PTTL(t.Context(), runOf(first)).Val(); left <= 0 || left > 8*24*time.Hour {
				t.Errorf("with %s its run is kept for %s", ttl, left)
			}
			if r := submit(t, b, ttl); r.Cache != next {
				t.Errorf("after %s the next is a %s", ttl, r.Cache)
			} else if r.Cache == broker.CacheMiss {
				send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
			}
		}
	})
}

// A run is kept for callbacks that are owed, and once they are told no longer than
// the requests that shared it.
func TestShareOutlivesItsCallbacks(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Services = map[string]broker.ServiceConfig{"echo": {Coalesce: true, Retention: time.Minute}}
		})
		if _, err := b.ClaimIntents(t.Context(), 1, time.Millisecond); err != nil { // makes the group
			t.Fatal(err)
		}
		first := submit(t, b, "x", calling("progress", "succeeded"))
		second, third := submit(t, b, "x", calling("succeeded")), submit(t, b, "x", calling("progress", "succeeded"))
		d := claim(t, b)
		send(t, b, d, broker.WorkerReply{Type: "progress", Body: []byte("half")})
		settle(t, b)
		send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("r")})
		settle(t, b)
		kept := func(when string, least, most time.Duration) {
			t.Helper()
			for _, key := range []string{runOf(first), strings.Replace(runOf(first), "request", "events", 1)} {
				if left := redis.Client.PTTL(t.Context(), key).Val(); left < least || left > most {
					t.Errorf("%s, %s is kept for %s", when, key, left)
				}
			}
		}
		kept("owed", 24*time.Hour, 72*time.Hour)
		if err := b.Delete(t.Context(), third.ID); err != nil { // what is owed goes with it
			t.Fatal(err)
		}
		intents, err := b.ClaimIntents(t.Context(), 10, time.Millisecond)
		if err != nil || len(intents) != 5 {
			t.Fatal(len(intents), err)
		}
		for _, i := range intents {
			if i.ID != second.ID {
				continue
			}
			if err := b.Delivered(t.Context(), i); err != nil {
				t.Fatal(err)
			}
		}
		kept("the first is owed two", 24*time.Hour, 72*time.Hour)
		for _, i := range intents {
			if i.ID == second.ID {
				continue
			}
			if err := b.Delivered(t.Context(), i); err != nil {
				t.Fatal(err)
			}
		}
		kept("all told", 30*time.Second, time.Minute)
	})
}

// Who left before the end sees nothing of what came after, also where the run keeps
// only the latest of it.
func TestShareLeftBeforeTheCut(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Services = map[string]broker.ServiceConfig{"echo": {Coalesce: true, MaxEvents: 4}}
		})
		first, second := submit(t, b, "x"), submit(t, b, "x")
		d := claim(t, b)
		seq := 0
		more := func(n int) {
			for range n {
				seq++
				send(t, b, d, broker.WorkerReply{Type: "partial", Body: []byte(fmt.Sprint(seq))})
			}
			settle(t, b)
		}
		more(3)
		if _, err := b.Cancel(t.Context(), second.ID); err != nil {
			t.Fatal(err)
		}
		for _, want := range []struct{ more, first int }{{2, 2}, {1, 3}, {1, 4}, {5, 4}} {
			more(want.more)
			r, events, first, err := b.Events(t.Context(), second.ID, 0)
			if err != nil || r.Events != 4 || first != want.first || len(events) != 4-want.first {
				t.Errorf("after %d it has %d events of %d from %d on, %v", seq, len(events), r.Events, first, err)
			}
			for i, e := range events {
				if e.Number != first+i || string(e.Body) != fmt.Sprint(e.Number) {
					t.Errorf("event %d is %q", e.Number, e.Body)
				}
			}
		}
		if _, events, from, err := b.Events(t.Context(), first.ID, 0); err != nil || from != 9 || len(events) != 4 {
			t.Errorf("who stayed has %d from %d on, %v", len(events), from, err)
		}
	})
}

// Who had no time left when the reply came times out with it: it never stands where
// it did before.
func TestShareTooLate(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		first := submit(t, b, "x")
		short := submit(t, b, "x", timeout(30*time.Millisecond))
		d := claim(t, b)
		if r := status(t, b, short.ID); r.Status != broker.Running {
			t.Fatalf("it is %s", r.Status)
		}
		pass(t, b, short.Deadline)
		send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("r")})
		settle(t, b)
		if r := status(t, b, short.ID); r.Status != broker.TimedOut || r.Reason != "total" || r.Error == nil || r.Error.Code != "timeout" || r.Started.IsZero() {
			t.Errorf("too late, it is %+v", r)
		}
		if r := status(t, b, first.ID); r.Status != broker.Succeeded {
			t.Errorf("the first is %s", r.Status)
		}
	})
}

// A failure that came in time is one, whenever it is settled.
func TestShareFailedInTime(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing, func(o *broker.Options) {
			o.MaxReply = 8
			o.Judge = broker.Judge{Services: []string{"echo"}, Reply: func(context.Context, broker.FinalReply) broker.Verdict {
				return broker.Verdict{Fail: &broker.Error{Code: "schema", Message: "It is bad."}}
			}}
		})
		for reason, reply := range map[string]broker.WorkerReply{
			"max_attempts": {Type: "retry"},
			"intercepted":  {Type: "final"},
			"worker":       {Type: "final", Body: []byte("too large a reply")},
		} {
			submit(t, b, reason, func(s *broker.Submission) { s.MaxAttempts = 1 })
			short := submit(t, b, reason, timeout(50*time.Millisecond))
			send(t, b, claim(t, b), reply)
			came(t, redis, short.Deadline)
			pass(t, b, short.Deadline)
			settle(t, b)
			if r := status(t, b, short.ID); r.Status != broker.Failed || r.Reason != reason {
				t.Errorf("%s: it is %s by %q", reason, r.Status, r.Reason)
			}
		}
	})
}

// The start timeout of who joins a run between two attempts counts; it is over for
// who saw the first begin.
func TestShareStartsBetweenAttempts(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		start := func(d time.Duration) func(*broker.Submission) {
			return func(s *broker.Submission) { s.StartTimeout = d }
		}
		submit(t, b, "x")
		saw := submit(t, b, "x", start(500*time.Millisecond))
		pass(t, b, saw.Created) // or the first attempt ends in the millisecond in which it came
		send(t, b, claim(t, b), broker.WorkerReply{Type: "retry", Delay: time.Minute})
		settle(t, b)
		late := submit(t, b, "x", start(20*time.Millisecond))
		if r := await(t, b, late.ID, broker.TimedOut); r.Reason != "start" || r.Attempt != 2 {
			t.Errorf("it timed out by %q in attempt %d", r.Reason, r.Attempt)
		}
		pass(t, b, saw.Created.Add(500*time.Millisecond))
		decide(t, b)
		if r := status(t, b, saw.ID); r.Status != broker.Scheduled {
			t.Errorf("who saw it begin is %s by %q", r.Status, r.Reason)
		}
	})
}

// However many share a run that fails, its body is kept once, for all of them to be
// redriven.
func TestShareDeadLetters(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		bodies := func() (n int) {
			for _, key := range redis.Keys(t) {
				if strings.Contains(key, ":request:") && redis.Client.HExists(t.Context(), key, "body").Val() {
					n++
				}
			}
			return n
		}
		var dead []broker.Record
		for range 3 {
			dead = append(dead, submit(t, b, "body"))
		}
		short := submit(t, b, "body", timeout(20*time.Millisecond), func(s *broker.Submission) { s.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" })
		await(t, b, short.ID, broker.TimedOut) // while the run goes on
		dead = append(dead, short)
		send(t, b, claim(t, b), broker.WorkerReply{Type: "failed", Error: &broker.Error{Code: "no"}})
		settle(t, b)
		if n := bodies(); n != 1 {
			t.Errorf("%d bodies are kept", n)
		}
		list, err := b.DeadLetters(t.Context(), broker.DeadFilter{Tenant: broker.DefaultTenant}, broker.DeadPlace{}, 10)
		if err != nil || len(list) != 4 || list[0].Size != 4 || list[0].ContentType != "text/plain" {
			t.Fatalf("%+v, %v", list, err)
		}
		if err := b.Delete(t.Context(), dead[0].ID); err != nil {
			t.Fatal(err)
		}
		for _, r := range dead[1:] {
			again := redriven(t, b, r)
			if d := claim(t, b); d.ID != again.ID.String() || string(d.Body) != "body" || d.ContentType != "text/plain" || d.Traceparent != r.Traceparent {
				t.Errorf("delivered %+v", d)
			}
			if err := b.Delete(t.Context(), again.ID); err != nil {
				t.Fatal(err)
			}
		}
		alone := submit(t, b, "other", timeout(20*time.Millisecond)) // the last to leave
		await(t, b, alone.ID, broker.TimedOut)
		again := redriven(t, b, alone)
		if d := claim(t, b); string(d.Body) != "other" {
			t.Errorf("delivered %+v", d)
		}
		for _, id := range []correlation.ID{dead[1].ID, dead[2].ID, dead[3].ID, alone.ID, again.ID} {
			if err := b.Delete(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		for _, key := range redis.Keys(t) {
			if strings.Contains(key, ":request:") && !deleted(t, redis, key) || strings.Contains(key, ":dead:") || strings.Contains(key, ":content:") {
				t.Errorf("%s is left", key)
			}
		}
	})
}

// Who timed out while the run goes on for others is redriven with the body, which is
// still on the stream.
func TestShareRedrivenWhileItRuns(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		submit(t, b, "body")
		short := submit(t, b, "body", timeout(20*time.Millisecond))
		await(t, b, short.ID, broker.TimedOut)
		list, err := b.DeadLetters(t.Context(), broker.DeadFilter{Tenant: broker.DefaultTenant}, broker.DeadPlace{}, 10)
		if err != nil || len(list) != 1 || list[0].Size != 4 || list[0].ContentType != "text/plain" {
			t.Errorf("%+v, %v", list, err)
		}
		again := redriven(t, b, short)
		for range 2 {
			if d := claim(t, b); string(d.Body) != "body" || d.ContentType != "text/plain" {
				t.Errorf("delivered %+v", d)
			}
		}
		if r := status(t, b, again.ID); r.Status != broker.Running {
			t.Errorf("it is %s", r.Status)
		}
	})
}

// A job redrives those that shared a run, each with the body.
func TestShareRedrivenByAJob(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		for range 3 {
			submit(t, b, "body")
		}
		send(t, b, claim(t, b), broker.WorkerReply{Type: "failed"})
		settle(t, b)
		job, err := b.RedriveAll(t.Context(), broker.RedriveFilter{DeadFilter: broker.DeadFilter{Tenant: broker.DefaultTenant}})
		if err != nil {
			t.Fatal(err)
		}
		pursue(t, b)
		if job, err = b.RedriveStatus(t.Context(), job.ID); err != nil || job.State != broker.RedriveDone || job.Done != 3 || job.Failed != 0 {
			t.Errorf("%+v, %v", job, err)
		}
		for range 3 {
			if d := claim(t, b); string(d.Body) != "body" {
				t.Errorf("delivered %+v", d)
			}
		}
	})
}

// Who is deleted while the run goes on is not waited for when that is forgotten.
func TestShareDeletedWhileItRuns(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		first, second := submit(t, b, "x"), submit(t, b, "x")
		d := claim(t, b)
		if err := b.Delete(t.Context(), first.ID); err != nil {
			t.Fatal(err)
		}
		if r := submit(t, b, "x"); r.Cache != broker.CacheShared {
			t.Errorf("the next is a %s", r.Cache)
		} else if err := b.Delete(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("r")})
		settle(t, b)
		if r := status(t, b, second.ID); replyOf(r) != "r" {
			t.Errorf("it is %+v", r)
		}
		if err := b.Delete(t.Context(), second.ID); err != nil {
			t.Fatal(err)
		}
		for _, key := range redis.Keys(t) {
			if strings.Contains(key, ":request:") && !deleted(t, redis, key) || strings.Contains(key, ":events:") || strings.Contains(key, ":content:") {
				t.Errorf("%s is left", key)
			}
		}
	})
}

// An item that a cached reply answers is counted once, and who follows the batch
// hears of it.
func TestShareInABatch(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing, func(o *broker.Options) { o.Name = "here" })
		told := redis.Client.Subscribe(t.Context(), "cc:wake:here")
		defer told.Close()
		if _, err := told.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		o, err := b.OpenBatch(t.Context(), broker.DefaultTenant, "", nil, 2, nil)
		if err != nil {
			t.Fatal(err)
		}
		item := func(number int) func(*broker.Submission) {
			return func(s *broker.Submission) { s.Batch = &broker.Item{Batch: o.ID, Number: number, Ends: o.Ends} }
		}
		submit(t, b, "hit")
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("r")})
		settle(t, b)
		open := submit(t, b, "open", item(0))
		if _, err := b.Batch(t.Context(), o.ID, broker.BatchAsk{Attach: true}); err != nil {
			t.Fatal(err)
		}
		answered := submit(t, b, "hit", item(1))
		if answered.Cache != broker.CacheHit {
			t.Fatalf("it is a %s", answered.Cache)
		}
		select {
		case m := <-told.Channel():
			if m.Payload != " "+o.ID.String() {
				t.Errorf("told of %s", m.Payload)
			}
		case <-time.After(5 * time.Second):
			t.Error("who follows the batch was not told")
		}
		now, err := b.Batch(t.Context(), o.ID, broker.BatchAsk{Open: true})
		if err != nil || now.Accepted != 2 || now.Outcomes[broker.Succeeded] != 1 || len(now.News) != 1 || !slices.Equal(now.Waiting, []correlation.ID{open.ID}) {
			t.Errorf("%+v, %v", now, err)
		}
	})
}

// Those who share a run stand in the same place of its line.
func TestSharePosition(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		for _, body := range []string{"x", "y", "z"} {
			submit(t, b, body)
		}
		r := submit(t, b, "x")
		if position, _, ok := b.Position(t.Context(), r); !ok || position != 1 {
			t.Errorf("at place %d, %v", position, ok)
		}
	})
}

// One script ends a bounded number of requests, however many share the runs.
func TestShareCrowdIsSettledInSteps(t *testing.T) {
	redistest.Still(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, sharing)
		for body := range 4 {
			for range 100 {
				submit(t, b, fmt.Sprint(body))
			}
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		}
		var steps []int
		for more := true; more; {
			facts, left, err := b.Settle(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			steps, more = append(steps, len(facts)), left
		}
		if diff := cmp.Diff([]int{100, 200, 100}, steps); diff != "" {
			t.Error(diff)
		}
	})
}
