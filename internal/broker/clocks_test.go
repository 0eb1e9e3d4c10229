package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const clocks = "cc:{0}:clocks"

// together submits n requests at once, so that several are accepted by one script.
func together(t testing.TB, b *broker.Broker, n int, change ...func(*broker.Submission)) []broker.Record {
	t.Helper()
	all := make([]broker.Record, n)
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() {
			s := broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Body: fmt.Append(nil, i)}
			for _, c := range change {
				c(&s)
			}
			r, _, err := b.Submit(t.Context(), s)
			if err != nil {
				t.Error(err)
			}
			all[i] = r
		})
	}
	calls.Wait()
	return all
}

// waiting counts who waits together.
func waiting(t testing.TB, redis *redistest.Redis) map[string]int {
	t.Helper()
	ids := map[string]int{}
	for _, group := range redis.Client.ZRange(t.Context(), clocks, 0, -1).Val() {
		for _, id := range strings.Fields(group)[3:] {
			ids[id]++
		}
	}
	return ids
}

// look has the groups be looked at, as if the time for that had come.
func look(t testing.TB, b *broker.Broker, redis *redistest.Redis) (kinds []string) {
	t.Helper()
	for _, group := range redis.Client.ZRange(t.Context(), clocks, 0, -1).Val() {
		redis.Client.Do(t.Context(), "ZADD", clocks, 0, group)
	}
	return decide(t, b)
}

// Who was answered leaves its group at the next look, and who waits on stays there, once.
func TestAnsweredLeavesItsGroup(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		all := together(t, b, 60, func(s *broker.Submission) { s.Timeout = time.Hour })
		if groups := redis.Client.ZCard(t.Context(), clocks).Val(); len(waiting(t, redis)) != 60 || groups > 55 {
			t.Errorf("%d wait, in %d groups", len(waiting(t, redis)), groups)
		}
		if n := redis.Client.Exists(t.Context(), "cc:{0}:due").Val(); n != 0 {
			t.Error("they are due one by one as well")
		}
		answered := map[string]bool{}
		for range 2 {
			for range 30 {
				d := claim(t, b)
				answered[d.ID] = true
				send(t, b, d, broker.WorkerReply{Type: "final"})
			}
			settle(t, b)
			if kinds := look(t, b, redis); len(kinds) > 0 {
				t.Errorf("it was decided: %v", kinds)
			}
			left := waiting(t, redis)
			for _, r := range all {
				if n := left[r.ID.String()]; answered[r.ID.String()] != (n == 0) || n > 1 {
					t.Errorf("answered: %v, and it waits %d times", answered[r.ID.String()], n)
				}
			}
			now := redis.Client.Time(t.Context()).Val()
			for _, z := range redis.Client.ZRangeWithScores(t.Context(), clocks, 0, -1).Val() {
				if at := time.UnixMilli(int64(z.Score)); at.Before(now) || at.After(now.Add(6*time.Second)) {
					t.Errorf("the next look is in %v", at.Sub(now))
				}
			}
		}
		if n := redis.Client.Exists(t.Context(), clocks).Val(); n != 0 {
			t.Errorf("all are answered, and waited for are %v", waiting(t, redis))
		}
	})
}

// The clocks of who waits together run out in their time, also of more than one call of
// the script decides, and not before what Redis took by then is settled.
func TestClocksOfAGroup(t *testing.T) {
	redistest.Still(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		late := together(t, b, 300, func(s *broker.Submission) { s.Timeout = 700 * time.Millisecond })
		idle := together(t, b, 5, func(s *broker.Submission) { s.StartTimeout, s.Timeout = 600*time.Millisecond, time.Hour })
		slow := together(t, b, 5, func(s *broker.Submission) { s.RunTimeout, s.Timeout = 600*time.Millisecond, time.Hour })
		long := together(t, b, 5, func(s *broker.Submission) { s.Timeout = time.Hour })
		answered := claim(t, b)
		send(t, b, answered, broker.WorkerReply{Type: "final", Body: []byte("in time")})
		came(t, redis, slices.MinFunc(late, func(a, b broker.Record) int { return a.Created.Compare(b.Created) }).Created)
		for _, r := range slices.Concat(late, idle, slow) {
			until(t, b, r.Created.Add(700*time.Millisecond))
		}
		if kinds := decide(t, b); !slices.Equal(kinds, []string{"settle"}) {
			t.Errorf("before the reply was settled, it decided %v", kinds)
		}
		settle(t, b)
		calls := 0
		for more := true; more; calls++ {
			d, err := b.Decide(t.Context(), 0)
			if err != nil || len(d.Facts) > 256 {
				t.Fatalf("it decided %d, %v", len(d.Facts), err)
			}
			more = d.More
		}
		want := map[broker.Status]int{broker.TimedOut: 304, broker.Succeeded: 1, broker.Queued: 10}
		got := map[broker.Status]int{}
		for _, r := range slices.Concat(late, idle, slow, long) {
			got[status(t, b, r.ID).Status]++
		}
		for s, n := range want {
			if got[s] != n {
				t.Errorf("%d are %s, want %d: %v", got[s], s, n, got)
			}
		}
		if id, err := correlation.Parse(answered.ID); err != nil || replyOf(status(t, b, id)) != "in time" {
			t.Errorf("the answer came in time, and it is %+v", status(t, b, id))
		}
		if calls < 3 {
			t.Errorf("it decided all of them in %d calls", calls)
		}
		// What has a run timeout is looked at by itself from then on, see next_due.
		if n := redis.Client.ZCard(t.Context(), "cc:{0}:due").Val(); n != 5 || len(waiting(t, redis)) != 5 {
			t.Errorf("%d are due by themselves, %d wait together", n, len(waiting(t, redis)))
		}
	})
}

// A group that nobody looks at is as late as anything else that is due.
func TestLateGroupsAreCounted(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		together(t, b, 1)
		redis.Client.Do(t.Context(), "ZADD", clocks, 1, redis.Client.ZRange(t.Context(), clocks, 0, 0).Val()[0])
		if u, err := b.Upkeep(t.Context()); err != nil || u.Stuck != 1 {
			t.Errorf("%+v, %v", u, err)
		}
	})
}
