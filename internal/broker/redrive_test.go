package broker_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// pursue does the jobs of all partitions until there is nothing to do at once.
func pursue(t testing.TB, b *broker.Broker) {
	t.Helper()
	for more := true; more; {
		more = false
		for p := range b.Partitions() {
			again, err := b.Pursue(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			more = more || again
		}
	}
}

// TestRedriveAllThatMatch, in all partitions, and nothing else; another gateway
// goes on with it.
func TestRedriveAllThatMatch(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Partitions = 3 })
		const n = 110 // of which no partition gets more than go to the stream at once, 64
		for range n {
			fails(t, b, "x", "boom")
		}
		fails(t, b, "x", "other")
		fails(t, b, "x", "boom", func(s *broker.Submission) { s.Tenant = "globex" })
		filter := broker.RedriveFilter{DeadFilter: broker.DeadFilter{Tenant: broker.DefaultTenant, Service: "echo", Code: "boom"}, Status: broker.Failed, Limit: 100}
		job, err := b.RedriveAll(t.Context(), filter)
		if err != nil || job.State != broker.RedriveRunning {
			t.Fatalf("%+v, %v", job, err)
		}
		if _, err := b.Pursue(t.Context(), job.ID.Partition()); err != nil {
			t.Fatal(err)
		}
		if job, err = b.RedriveStatus(t.Context(), job.ID); err != nil || job.State != broker.RedriveRunning || job.Total != 100 || job.Done == 0 || job.Done > 64 {
			t.Errorf("%+v, %v", job, err)
		}
		other := open(t, redis)
		pursue(t, other)
		if job, err = b.RedriveStatus(t.Context(), job.ID); err != nil || job.State != broker.RedriveDone || job.Done != 100 || job.Total != 100 || job.Failed != 0 || job.Finished.IsZero() {
			t.Errorf("%+v, %v", job, err)
		}
		if left := deadIDs(t, b, broker.DeadFilter{}); len(left) != n+1-100 {
			t.Errorf("%d are left", len(left))
		}
		if left := deadIDs(t, b, broker.DeadFilter{Tenant: "globex"}); len(left) != 1 {
			t.Errorf("another tenant's were redriven")
		}
		made := map[string]int{}
		for {
			got, err := b.Claim(t.Context(), "w1", []string{"echo"}, 100, time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				break
			}
			for _, d := range got {
				id, err := correlation.Parse(d.ID)
				if err != nil {
					t.Fatal(err)
				}
				made[status(t, b, id).RetryOf]++
			}
		}
		if len(made) != 100 {
			t.Errorf("%d were made", len(made))
		}
		for old, n := range made {
			if n != 1 {
				t.Errorf("%d were made of %s", n, old)
			}
		}
		if _, err := b.StopRedrive(t.Context(), job.ID); !errors.Is(err, broker.ErrTerminal) {
			t.Errorf("stop of a done one: %v", err)
		}
		if keys := redis.Client.Keys(t.Context(), "cc:*:redrives").Val(); len(keys) != 0 {
			t.Errorf("stewards still look at %v", keys)
		}
	})
}

// TestRedriveByStatus passes over those with another one.
func TestRedriveByStatus(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for range 3 {
			fails(t, b, "x", "boom")
		}
		late := submit(t, b, "late", func(s *broker.Submission) { s.Timeout = time.Millisecond })
		tick(t, redis)
		decide(t, b)
		job, err := b.RedriveAll(t.Context(), broker.RedriveFilter{Status: broker.TimedOut})
		if err != nil {
			t.Fatal(err)
		}
		pursue(t, b)
		if job, err = b.RedriveStatus(t.Context(), job.ID); err != nil || job.State != broker.RedriveDone || job.Done != 1 || job.Total != 1 {
			t.Errorf("%+v, %v", job, err)
		}
		if status(t, b, late.ID).RetriedAs == "" || len(deadIDs(t, b, broker.DeadFilter{})) != 3 {
			t.Error("the wrong ones were redriven")
		}
	})
}

// TestRedriveWaitsForRoomAndCanBeStopped, also by a gateway that dies before it
// told all partitions.
func TestRedriveWaitsForRoomAndCanBeStopped(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Services = map[string]broker.ServiceConfig{"echo": {MaxQueued: 2}} })
		var dead []broker.Record
		for i := range 5 {
			dead = append(dead, fails(t, b, fmt.Sprint(i), "boom"))
			tick(t, redis)
		}
		job, err := b.RedriveAll(t.Context(), broker.RedriveFilter{})
		if err != nil {
			t.Fatal(err)
		}
		progress := func(state broker.RedriveState, done int) {
			t.Helper()
			pursue(t, b)
			r, err := b.RedriveStatus(t.Context(), job.ID)
			if err != nil || r.State != state || r.Done != done || r.Total != 5 {
				t.Errorf("%+v, %v", r, err)
			}
		}
		progress(broker.RedriveRunning, 2)
		failNext(t, b, "boom") // what died since is not its business
		progress(broker.RedriveRunning, 3)
		if r, err := b.StopRedrive(t.Context(), job.ID); err != nil || r.State != broker.RedriveCanceled {
			t.Errorf("%+v, %v", r, err)
		}
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		settle(t, b)
		progress(broker.RedriveCanceled, 3)
		if status(t, b, dead[2].ID).RetriedAs == "" || status(t, b, dead[3].ID).RetriedAs != "" {
			t.Error("not oldest first")
		}
		if keys := redis.Client.Keys(t.Context(), "cc:*:redrives").Val(); len(keys) != 0 {
			t.Errorf("stewards still look at %v", keys)
		}
		if r, err := b.StopRedrive(t.Context(), job.ID); err != nil || r.State != broker.RedriveCanceled {
			t.Errorf("stopped twice: %+v, %v", r, err)
		}
	})
}

// TestRedriveCountsWhatIsLost: a dead letter whose body is gone.
func TestRedriveCountsWhatIsLost(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		dead := fails(t, b, "x", "boom")
		fails(t, b, "y", "boom")
		redis.Client.HDel(t.Context(), "cc:{0}:request:"+dead.ID.String(), "body")
		job, err := b.RedriveAll(t.Context(), broker.RedriveFilter{})
		if err != nil {
			t.Fatal(err)
		}
		pursue(t, b)
		if r, err := b.RedriveStatus(t.Context(), job.ID); err != nil || r.State != broker.RedriveDone || r.Done != 1 || r.Failed != 1 {
			t.Errorf("%+v, %v", r, err)
		}
		if got := deadIDs(t, b, broker.DeadFilter{}); !slices.Equal(got, slices.Clip(append(got[:0:0], dead.ID))) {
			t.Errorf("listed: %v", got)
		}
	})
}
