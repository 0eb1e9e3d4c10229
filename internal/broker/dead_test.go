package broker_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// fails submits a request that its worker fails.
func fails(t testing.TB, b *broker.Broker, body, code string, change ...func(*broker.Submission)) broker.Record {
	t.Helper()
	r := submit(t, b, body, change...)
	failNext(t, b, code)
	return status(t, b, r.ID)
}

func failNext(t testing.TB, b *broker.Broker, code string) {
	t.Helper()
	send(t, b, claim(t, b), broker.WorkerReply{Type: "failed", Error: &broker.Error{Code: code, Message: "It broke."}})
	settle(t, b)
}

// tick returns once Redis' clock shows a later millisecond, and one more.
func tick(t testing.TB, redis *redistest.Redis) {
	t.Helper()
	now := func() int64 { return redis.Client.Time(t.Context()).Val().UnixMilli() }
	for begun := now(); now() < begun+2; {
	}
}

func deadIDs(t testing.TB, b *broker.Broker, f broker.DeadFilter) []correlation.ID {
	t.Helper()
	list, err := b.DeadLetters(t.Context(), f, broker.DeadPlace{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]correlation.ID, len(list))
	for i, d := range list {
		ids[i] = d.ID
	}
	return ids
}

// TestRetryMakesOneNewRequest of the kept body, however often and by how many it
// is asked for, and the body is in one place only.
func TestRetryMakesOneNewRequest(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		old := fails(t, b, "the body", "boom", func(s *broker.Submission) {
			s.Timeout, s.MaxAttempts, s.Priority, s.IdempotencyKey = time.Hour, 7, broker.PriorityHigh, "k"
			s.Callback = &broker.Callback{URL: "https://example.com/hook", Events: []string{"failed"}}
			s.Headers = map[string]string{"x-trace": "1"}
			s.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		})
		var all sync.WaitGroup
		made := make([]broker.Record, 8)
		fresh := make([]bool, len(made))
		for i := range made {
			all.Go(func() {
				r, replayed, err := b.Retry(t.Context(), old.ID)
				if err != nil {
					t.Error(err)
				}
				made[i], fresh[i] = r, !replayed
			})
		}
		all.Wait()
		n := 0
		for i, r := range made {
			if r.ID != made[0].ID {
				t.Errorf("%v and %v were made of one", r.ID, made[0].ID)
			}
			if fresh[i] {
				n++
			}
		}
		r := status(t, b, made[0].ID)
		if n != 1 || r.ID == old.ID || r.ID.Partition() != old.ID.Partition() || r.RetryOf != old.ID.String() {
			t.Errorf("%d were fresh; %+v", n, r)
		}
		if err := b.Verify(r.ID, broker.DefaultTenant); err != nil {
			t.Error(err)
		}
		if r.Deadline.Sub(r.Created) != time.Hour || r.MaxAttempts != 7 || r.Priority != broker.PriorityHigh || r.Traceparent != old.Traceparent ||
			!cmp.Equal(r.Callback, old.Callback) || r.Status != broker.Queued {
			t.Errorf("options differ: %+v", r)
		}
		d := claim(t, b)
		if string(d.Body) != "the body" || d.ContentType != "text/plain" || d.Headers["x-trace"] != "1" || d.Attempt != 1 {
			t.Errorf("the worker got %+v", d)
		}
		if now := status(t, b, old.ID); now.Status != broker.Failed || now.RetriedAs != r.ID.String() || now.Finished != old.Finished {
			t.Errorf("the old one: %+v", now)
		}
		key := "cc:{0}:request:" + old.ID.String()
		if redis.Client.HExists(t.Context(), key, "body").Val() {
			t.Error("there are two copies of the body")
		}
		if got := deadIDs(t, b, broker.DeadFilter{}); len(got) != 0 {
			t.Errorf("still a dead letter: %v", got)
		}

		// It fails again: a dead letter with its body, made anew of the new one.
		send(t, b, d, broker.WorkerReply{Type: "failed"})
		settle(t, b)
		if got := deadIDs(t, b, broker.DeadFilter{}); !slices.Equal(got, []correlation.ID{r.ID}) {
			t.Errorf("dead letters %v", got)
		}
		if third, _, err := b.Retry(t.Context(), r.ID); err != nil || third.RetryOf != r.ID.String() || string(claim(t, b).Body) != "the body" {
			t.Errorf("%+v, %v", third, err)
		}
		if err := b.Delete(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		if _, _, err := b.Retry(t.Context(), old.ID); !errors.Is(err, broker.ErrGone) {
			t.Errorf("what was made of it is forgotten: %v", err)
		}
	})
}

func TestRetryOfAnotherThanADeadLetter(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Services = map[string]broker.ServiceConfig{"echo": {MaxQueued: 1}}
		})
		refused := func(id correlation.ID, want error) {
			t.Helper()
			if _, _, err := b.Retry(t.Context(), id); !errors.Is(err, want) {
				t.Errorf("%v instead of %v", err, want)
			}
		}
		done := submit(t, b, "x")
		refused(done.ID, broker.ErrNotDead)
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		settle(t, b)
		refused(done.ID, broker.ErrNotDead)
		canceled := submit(t, b, "x")
		if _, err := b.Cancel(t.Context(), canceled.ID); err != nil {
			t.Fatal(err)
		}
		refused(canceled.ID, broker.ErrNotDead)

		dead := fails(t, b, "x", "boom")
		filler := submit(t, b, "y")
		refused(dead.ID, broker.ErrQueueFull)
		if got := deadIDs(t, b, broker.DeadFilter{}); len(got) != 1 {
			t.Errorf("a refused redrive took it from the list: %v", got)
		}
		if err := b.Delete(t.Context(), filler.ID); err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(t.Context(), dead.ID); err != nil {
			t.Fatal(err)
		}
		refused(dead.ID, broker.ErrGone)
		if keys, _ := redis.Client.Keys(t.Context(), "cc:{0}:dead*").Result(); len(keys) != 0 {
			t.Errorf("a deleted dead letter left %v", keys)
		}
	})
}

// TestRetryKeepsTheOrder: what is made anew of a request with an ordering key waits
// for those that were accepted meanwhile.
func TestRetryKeepsTheOrder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		ordered := func(s *broker.Submission) { s.OrderingKey = "k" }
		dead := fails(t, b, "1", "boom", ordered)
		submit(t, b, "2", ordered)
		if r, _, err := b.Retry(t.Context(), dead.ID); err != nil || r.Rank != 1 {
			t.Errorf("%+v, %v", r, err)
		}
		for _, want := range []string{"2", "1"} {
			d := claim(t, b)
			if string(d.Body) != want {
				t.Errorf("%s instead of %s", d.Body, want)
			}
			send(t, b, d, broker.WorkerReply{Type: "final"})
			settle(t, b)
		}
	})
}

// TestDeadLettersAreListed by service and error, newest first, page by page, each
// tenant's own.
func TestDeadLettersAreListed(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Partitions = 2
			o.Services = map[string]broker.ServiceConfig{"echo": {}, "mail": {}}
		})
		var boom, other []correlation.ID
		for i := range 6 {
			code, list := "boom", &boom
			if i%3 == 2 {
				code, list = "a b:*", &other
			}
			*list = slices.Insert(*list, 0, fails(t, b, "x", code).ID)
			tick(t, redis) // order is by the millisecond
		}
		foreign := fails(t, b, "x", "boom", func(s *broker.Submission) { s.Tenant = "globex" })
		for name, c := range map[string]struct {
			filter broker.DeadFilter
			want   []correlation.ID
		}{
			"all":               {broker.DeadFilter{}, []correlation.ID{other[0], boom[0], boom[1], other[1], boom[2], boom[3]}},
			"by error":          {broker.DeadFilter{Code: "a b:*"}, other},
			"by service":        {broker.DeadFilter{Service: "mail"}, []correlation.ID{}},
			"by both":           {broker.DeadFilter{Service: "echo", Code: "boom"}, boom},
			"another tenant":    {broker.DeadFilter{Tenant: "globex"}, []correlation.ID{foreign.ID}},
			"no tenant of that": {broker.DeadFilter{Tenant: "globe"}, []correlation.ID{}},
		} {
			if diff := cmp.Diff(c.want, deadIDs(t, b, c.filter)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
		var paged []correlation.ID
		for from := (broker.DeadPlace{}); ; {
			page, err := b.DeadLetters(t.Context(), broker.DeadFilter{}, from, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page {
				paged, from = append(paged, d.ID), broker.DeadPlace{At: d.Finished, ID: d.ID}
				if d.Size != 1 || d.ContentType != "text/plain" || d.Error.Message != "It broke." || d.Expires.Sub(d.Finished) != 24*time.Hour {
					t.Errorf("%+v", d)
				}
			}
			if len(page) < 2 {
				break
			}
		}
		if diff := cmp.Diff(deadIDs(t, b, broker.DeadFilter{}), paged); diff != "" {
			t.Errorf("page by page: %s", diff)
		}
		n, left, err := b.Purge(t.Context(), broker.DeadFilter{Code: "boom"}, 3)
		if n != 3 || !left || err != nil {
			t.Errorf("%d purged, left %v, %v", n, left, err)
		}
		if n, left, err := b.Purge(t.Context(), broker.DeadFilter{}, 100); n != 3 || left || err != nil {
			t.Errorf("%d purged, left %v, %v", n, left, err)
		}
		if _, err := b.Status(t.Context(), boom[0]); !errors.Is(err, broker.ErrGone) {
			t.Errorf("purged: %v", err)
		}
		if got := deadIDs(t, b, broker.DeadFilter{Tenant: "globex"}); len(got) != 1 {
			t.Errorf("a purge took another tenant's: %v", got)
		}
	})
}

// TestDeadLettersLeaveNothing behind after their retention.
func TestDeadLettersLeaveNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		before := redis.Keys(t)
		for _, tenant := range []string{broker.DefaultTenant, "a b 7"} {
			r := submit(t, b, "x", func(s *broker.Submission) { s.Retention, s.Tenant = time.Millisecond, tenant })
			failNext(t, b, "boom")
			tick(t, redis)
			if _, err := b.Status(t.Context(), r.ID); !errors.Is(err, broker.ErrGone) {
				t.Errorf("after its retention: %v", err)
			}
		}
		if got := deadIDs(t, b, broker.DeadFilter{}); len(got) != 0 {
			t.Errorf("listed after its retention: %v", got)
		}
		look(t, b, redis)
		if err := b.Clear(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		left := slices.DeleteFunc(redis.Keys(t), func(key string) bool {
			return slices.Contains(before, key) || key == "cc:{0}:counts" || key == "cc:{0}:kept" || key == "cc:{0}:replies" || key == "cc:{0}:limits" ||
				strings.Contains(key, ":listing:") || key == "cc:{0}:tenants" // Prune does those, see TestPrune
		})
		if len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}
