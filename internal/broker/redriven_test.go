package broker_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func redriven(t testing.TB, b *broker.Broker, old broker.Record) broker.Record {
	t.Helper()
	r, replayed, err := b.Retry(t.Context(), old.ID)
	if err != nil || replayed {
		t.Fatalf("retry: replayed %v, %v", replayed, err)
	}
	return r
}

// with is a submission in which every option is set; the second has the other key.
func with(concurrency bool) broker.Submission {
	s := broker.Submission{
		Tenant: "acme", Service: "echo", ContentType: "application/x-own", Headers: map[string]string{"coatcheck-method": "PUT", "coatcheck-path": "/a", "accept": "text/plain"},
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Body: []byte("body"), IdempotencyKey: "k",
		Callback: &broker.Callback{URL: "https://example.com/hook", Events: []string{"failed", "progress"}}, Tags: []string{"a", "b"},
		Timeout: 61 * time.Second, StartTimeout: 62 * time.Second, RunTimeout: 63 * time.Second, Retention: 64 * time.Second, Backoff: 65 * time.Second,
		MaxAttempts: 6, Delay: 20 * time.Millisecond, Priority: broker.PriorityLow, OrderingKey: "o",
		Minimal: true, Batch: &broker.Item{Batch: correlation.Keyring{correlation.NewKey()}.Mint(time.Now(), 0, "acme"), Ends: time.Now().Add(time.Hour)},
		Cache: broker.CacheControl{NoCache: true}, // said of this submit: what is redriven runs, and alone
	}
	if concurrency {
		s.OrderingKey, s.ConcurrencyKey = "", "c"
	}
	return s
}

// TestRedrivenHasAllThatIsTheClients: what is made of a dead letter goes through the
// same life, and then has the same fields as its record and in them the same options.
// A new option, or a new field of a record, fails here until somebody decides
// whether it comes over.
func TestRedrivenHasAllThatIsTheClients(t *testing.T) {
	for field, value := range reflect.ValueOf(with(false)).Fields() {
		if value.IsZero() && field.Name != "ConcurrencyKey" && field.Name != "Await" {
			t.Errorf("the option %s is not set here, so nobody sees whether a redrive keeps it", field.Name)
		}
	}
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Services["echo"] = broker.ServiceConfig{KeyConcurrency: 3} })
		if _, err := b.ClaimIntents(t.Context(), 1, time.Millisecond); err != nil { // makes the group
			t.Fatal(err)
		}
		for _, concurrency := range []bool{false, true} {
			s := with(concurrency)
			old, _, err := b.Submit(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			await(t, b, old.ID, broker.Queued)
			live := func(r broker.Record) (broker.Delivery, map[string]string) {
				t.Helper()
				d := claim(t, b)
				if d.ID != r.ID.String() {
					t.Fatalf("claimed %s, want %s", d.ID, r.ID)
				}
				send(t, b, d, broker.WorkerReply{Type: "progress", Body: []byte("half"), Seq: 1})
				send(t, b, d, broker.WorkerReply{Type: "failed", ContentType: "text/plain", Body: []byte("broken"), Error: &broker.Error{Code: "boom"}, Seq: 2})
				settle(t, b)
				if now := status(t, b, r.ID); now.Status != broker.Failed {
					t.Fatalf("it is %s", now.Status)
				}
				return d, redis.Client.HGetAll(t.Context(), "cc:{0}:request:"+r.ID.String()).Val()
			}
			first, was := live(old)
			made := redriven(t, b, old)
			if made.Status != broker.Queued || made.RetryOf != old.ID.String() || made.Priority != s.Priority || !cmp.Equal(made.Callback, s.Callback) || !cmp.Equal(made.Tags, s.Tags) {
				t.Errorf("made %+v", made)
			}
			second, is := live(made)
			if first.ID, first.Token, first.Entry, first.Deadline = second.ID, second.Token, second.Entry, second.Deadline; !cmp.Equal(first, second) {
				t.Errorf("the worker got another one: %s", cmp.Diff(first, second))
			}

			// The idempotency key, and the item of a batch, mean the one that was accepted
			// with them; the delay is over.
			// An ordinal comes over in no way: it is a number of the entry.
			var names []string
			for name := range was {
				if name != "idem" && name != "delay" && name != "batch" {
					names = append(names, name)
				}
			}
			names = append(names, "retry_of")
			slices.Sort(names)
			var got []string
			for name := range is {
				got = append(got, name)
			}
			slices.Sort(got)
			if diff := cmp.Diff(names, got); diff != "" {
				t.Errorf("the fields of the two records differ; see COPIED in redrive.lua:\n%s", diff)
			}
			its := strings.Fields("nonce plan finished started entry") // each has its own
			for name, value := range was {
				if name != "idem" && name != "delay" && name != "batch" && !slices.Contains(its, name) && is[name] != value {
					t.Errorf("%s was %q, is %q", name, value, is[name])
				}
			}
			plan := strings.Fields(is["plan"])
			if want := "61000 62000 63000 30000 6 64000 fpm"; strings.Join(plan[1:8], " ") != want || plan[9] != "65000" {
				t.Errorf("the plan is %v, want %s … 65000", plan, want)
			}
			if again, replayed, err := b.Submit(t.Context(), s); err != nil || !replayed || again.ID != old.ID {
				t.Errorf("its idempotency key means %v now, replayed %v, %v", again.ID, replayed, err)
			}

			intents, err := b.ClaimIntents(t.Context(), 10, time.Millisecond)
			var owed []string
			for _, i := range intents {
				owed = append(owed, i.ID.String()+i.Type)
				if err := b.Delivered(t.Context(), i); err != nil {
					t.Fatal(err)
				}
			}
			want := []string{old.ID.String() + "progress", old.ID.String() + "failed", made.ID.String() + "progress", made.ID.String() + "failed"}
			if err != nil || !cmp.Equal(owed, want) {
				t.Errorf("callbacks owed: %v, %v; want %v", owed, err, want)
			}
			for _, id := range []broker.Record{old, made} {
				if err := b.Delete(t.Context(), id.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// TestRedrivenWaitsAsAnyOther: for its key, for room in its service, and for the end
// of a pause, in its place.
func TestRedrivenWaitsAsAnyOther(t *testing.T) {
	plain := func(*broker.Submission) {}
	high := func(s *broker.Submission) { s.Priority = broker.PriorityHigh }
	low := func(s *broker.Submission) { s.Priority = broker.PriorityLow }
	keyed := func(s *broker.Submission) { s.ConcurrencyKey = "c" }
	for _, c := range []struct {
		name        string
		concurrency int
		dead        func(*broker.Submission)
		pause       bool
		order       []string
	}{
		{"pause", 0, plain, true, []string{"1", "2", "dead", "3"}},
		{"priority in a pause", 0, high, true, []string{"dead", "1", "2", "3"}},
		{"low priority", 1, low, false, []string{"1", "2", "3", "dead"}},
		{"concurrency", 1, plain, false, []string{"1", "2", "dead", "3"}},
		{"concurrency key", 0, keyed, false, []string{"1", "2", "3", "dead"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
				b := open(t, redis, func(o *broker.Options) { o.Services["echo"] = broker.ServiceConfig{KeyConcurrency: 1} })
				dead := fails(t, b, "dead", "boom", c.dead)
				if c.concurrency > 0 { // from now on, and no steward has looked yet
					b = open(t, redis, func(o *broker.Options) { o.Services["echo"] = broker.ServiceConfig{Concurrency: c.concurrency} })
				}
				if c.name == "low priority" { // it had its service shared out before
					regulate(t, b, "echo")
				}
				if c.pause {
					if err := b.Pause(t.Context(), "echo"); err != nil {
						t.Fatal(err)
					}
				}
				others := plain
				if c.name == "concurrency key" {
					others = keyed
				}
				submit(t, b, "1", others)
				submit(t, b, "2", others)
				made := redriven(t, b, dead)
				if made.Status != broker.Queued || !made.Queued.IsZero() || made.Rank == 0 {
					t.Errorf("it does not wait: %+v", made)
				}
				submit(t, b, "3", plain)
				if c.pause {
					if got := take(t, b, 9); len(got) != 0 {
						t.Fatalf("a paused service gave out %s", got[0].Body)
					}
					if err := b.Resume(t.Context(), "echo"); err != nil {
						t.Fatal(err)
					}
				}
				var ran []string
				if c.name == "concurrency key" { // without a limit of the service, all that may run do
					var first []string
					for _, d := range take(t, b, 9) {
						first = append(first, string(d.Body))
						send(t, b, d, broker.WorkerReply{Type: "final"})
					}
					if !cmp.Equal(first, []string{"1", "3"}) {
						t.Errorf("ran %v at first", first)
					}
					settle(t, b)
					ran, c.order = serve(t, b), []string{"2", "dead"}
				} else {
					ran = serve(t, b)
				}
				if !cmp.Equal(ran, c.order) {
					t.Errorf("ran %v, want %v", ran, c.order)
				}
				for _, key := range redis.Keys(t) {
					if strings.Contains(key, ":gate:") || strings.Contains(key, ":waiting:") || strings.Contains(key, ":line:") {
						t.Errorf("left behind: %s", key)
					}
				}
			})
		})
	}
}

// TestRedrivenKeepsItsPlace when it is taken back from the stream.
func TestRedrivenKeepsItsPlace(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Services["echo"] = broker.ServiceConfig{Concurrency: 9} })
		dead := fails(t, b, "dead", "boom")
		submit(t, b, "1")
		if made := redriven(t, b, dead); made.Queued.IsZero() {
			t.Errorf("it waits: %+v", made)
		}
		submit(t, b, "2")
		if err := b.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		if err := b.Resume(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		if ran := serve(t, b); !cmp.Equal(ran, []string{"1", "dead", "2"}) {
			t.Errorf("ran %v", ran)
		}
	})
}

// TestJobWaitsAsAnyOther: what a job redrives keeps to the concurrency of its
// service from the first on, before a steward has looked.
func TestJobWaitsAsAnyOther(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for i := range 4 {
			fails(t, b, fmt.Sprint(i), "boom")
			tick(t, redis)
		}
		b = open(t, redis, func(o *broker.Options) { o.Services["echo"] = broker.ServiceConfig{Concurrency: 1} })
		if _, err := b.RedriveAll(t.Context(), broker.RedriveFilter{}); err != nil {
			t.Fatal(err)
		}
		pursue(t, b)
		got := take(t, b, 9)
		if len(got) != 1 {
			t.Fatalf("%d run at once", len(got))
		}
		send(t, b, got[0], broker.WorkerReply{Type: "final"})
		settle(t, b)
		if ran := append([]string{string(got[0].Body)}, serve(t, b)...); !cmp.Equal(ran, []string{"0", "1", "2", "3"}) {
			t.Errorf("ran %v", ran)
		}
	})
}

// TestRedriveKeepsToTheShareOfItsPartition of the most that may be queued.
func TestRedriveKeepsToTheShareOfItsPartition(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Partitions = 2
			o.Services["echo"] = broker.ServiceConfig{MaxQueued: 4}
		})
		var dead []broker.Record
		for range 6 { // one key, one partition
			dead = append(dead, fails(t, b, "x", "boom", func(s *broker.Submission) { s.ConcurrencyKey = "c" }))
		}
		redriven(t, b, dead[0])
		redriven(t, b, dead[1])
		if _, _, err := b.Retry(t.Context(), dead[2].ID); !errors.Is(err, broker.ErrQueueFull) {
			t.Errorf("a third in a partition whose share is 2: %v", err)
		}
		job, err := b.RedriveAll(t.Context(), broker.RedriveFilter{})
		if err != nil {
			t.Fatal(err)
		}
		pursue(t, b)
		if job, err = b.RedriveStatus(t.Context(), job.ID); err != nil || job.Done != 0 || job.Total != 4 || job.State != broker.RedriveRunning {
			t.Errorf("%+v, %v", job, err)
		}
	})
}

// TestFailedScatterIsNoDeadLetter: it keeps no body, and leaves nothing behind.
func TestFailedScatterIsNoDeadLetter(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, withThree)
		before := redis.Keys(t)
		r := scatter(t, b)
		answer(t, b, claimOf(t, b, "a"), "failed")
		answer(t, b, claimOf(t, b, "b"), "final")
		settle(t, b)
		if now := status(t, b, r.ID); now.Status != broker.Failed {
			t.Fatalf("it is %s", now.Status)
		}
		late := scatter(t, b, func(s *broker.Scatter) { s.Timeout = time.Millisecond })
		await(t, b, late.ID, broker.TimedOut)
		for _, id := range []broker.Record{r, late} {
			if now, _, err := b.Retry(t.Context(), id.ID); !errors.Is(err, broker.ErrNotDead) || len(now.Legs) != 3 {
				t.Errorf("retry: %v", err)
			}
		}
		if got := deadIDs(t, b, broker.DeadFilter{}); len(got) != 0 {
			t.Errorf("dead letters %v", got)
		}
		for _, key := range redis.Keys(t) {
			if strings.Contains(key, ":request:") && redis.Client.HExists(t.Context(), key, "body").Val() {
				t.Errorf("%s keeps a body", key)
			}
		}
		for _, id := range []broker.Record{r, late} {
			if err := b.Delete(t.Context(), id.ID); err != nil {
				t.Fatal(err)
			}
		}
		for _, key := range redis.Keys(t) {
			if !slices.Contains(before, key) && !slices.Contains(strings.Fields("cc:{0}:counts cc:{0}:kept cc:{0}:tenants cc:{0}:replies"), key) && !deleted(t, redis, key) {
				t.Errorf("left behind: %s", key)
			}
		}
	})
}

// TestDeadLettersAreBounded: above what a tenant may have listed, the oldest leaves
// the lists, and is redriven by its ID all the same.
func TestDeadLettersAreBounded(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		oldest := fails(t, b, "x", "boom")
		const most = 100_000
		pipe := redis.Client.Pipeline()
		for i := range most - 1 { // as if so many had died since
			pipe.Do(t.Context(), "ZADD", "cc:{0}:dead:*:0::*", oldest.Finished.UnixMilli()+1, fmt.Sprintf("%d echo other", i))
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		tick(t, redis)
		newest := fails(t, b, "y", "boom")
		if n := redis.Client.ZCard(t.Context(), "cc:{0}:dead:*:0::*").Val(); n != most {
			t.Errorf("%d are listed", n)
		}
		if got := deadIDs(t, b, broker.DeadFilter{Code: "boom"}); len(got) != 1 || got[0] != newest.ID {
			t.Errorf("listed: %v", got)
		}
		if n := redis.Client.ZCard(t.Context(), "cc:{0}:graves").Val(); n != 1 {
			t.Errorf("%d are pruned later", n)
		}
		redriven(t, b, oldest)
	})
}
