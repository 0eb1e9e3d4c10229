package broker_test

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// batchOf submits n items of a second's retention under a key, as a gateway does,
// and returns which requests they are.
func batchOf(t testing.TB, b *broker.Broker, key string, n int, service func(i int) string) (o broker.Opened, ids []correlation.ID, replayed int) {
	t.Helper()
	items := make([]broker.Submission, n)
	for i := range items {
		items[i] = broker.Submission{Tenant: "a", Service: service(i), Body: fmt.Append(nil, i), Timeout: time.Minute, Retention: time.Second}
	}
	o, err := b.OpenBatch(t.Context(), "a", key, []byte(key), n, items)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range items {
		s.Batch, s.IdempotencyKey = &broker.Item{Batch: o.ID, Number: i, Ends: o.Ends}, fmt.Sprintf("%s.%d", o.ID, i)
		r, again, err := b.Submit(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if ids = append(ids, r.ID); again {
			replayed++
		}
	}
	if err := b.CloseBatch(t.Context(), o.ID, ids); err != nil {
		t.Fatal(err)
	}
	return o, ids, replayed
}

func echoes(int) string { return "echo" }

func counts(t testing.TB, b *broker.Broker, id correlation.ID) string {
	t.Helper()
	got, err := b.Batch(t.Context(), id, broker.BatchAsk{})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d accepted, %d open, %d succeeded, %d failed, %d canceled, complete %t",
		got.Accepted, got.Open, got.Outcomes[broker.Succeeded], got.Outcomes[broker.Failed], got.Outcomes[broker.Canceled], got.Complete)
}

func want(t testing.TB, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s; want %s", got, want)
	}
}

// TestBatchOverPartitions: the outcomes of a batch are counted once each, wherever
// its items are; sent again it runs nothing twice, not even what is forgotten; and
// nothing of it stays for ever.
func TestBatchOverPartitions(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Partitions = 3 })
		const n = 30
		o, ids, _ := batchOf(t, b, "k", n, echoes)
		used := map[int]bool{}
		for _, id := range ids {
			used[id.Partition()] = true
		}
		if len(used) != 3 {
			t.Fatalf("the items are in partitions %v", used)
		}
		want(t, counts(t, b, o.ID), "30 accepted, 30 open, 0 succeeded, 0 failed, 0 canceled, complete false")
		for i := range 10 {
			d := claim(t, b)
			kind := "final"
			if i == 9 {
				kind = "failed"
			}
			send(t, b, d, broker.WorkerReply{Type: kind})
			send(t, b, d, broker.WorkerReply{Type: "final"}) // repeats count nothing
		}
		settle(t, b)
		want(t, counts(t, b, o.ID), "30 accepted, 20 open, 9 succeeded, 1 failed, 0 canceled, complete false")

		news, err := b.Batch(t.Context(), o.ID, broker.BatchAsk{Open: true})
		if err != nil || len(news.News) != 10 || len(news.Waiting) != 20 {
			t.Fatalf("%d outcomes, %d open, %v", len(news.News), len(news.Waiting), err)
		}
		for _, item := range news.News {
			if ids[item.Number] != item.ID || item.At.IsZero() {
				t.Errorf("number %d is %v, want %v", item.Number, item.ID, ids[item.Number])
			}
		}
		if later, err := b.Batch(t.Context(), o.ID, broker.BatchAsk{After: news.At}); err != nil || len(later.News) != 0 {
			t.Errorf("after all that is known: %d, %v", len(later.News), err)
		}

		forgotten := news.News[0].ID
		if err := b.Delete(t.Context(), forgotten); err != nil {
			t.Fatal(err)
		}
		for _, id := range news.Waiting {
			if _, err := b.Cancel(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		again, same, replayed := batchOf(t, b, "k", n, echoes)
		if again.ID != o.ID || !again.Replayed || !again.Ends.Equal(o.Ends) || replayed != n || !slices.Equal(ids, same) {
			t.Errorf("sent again: %+v, %d replayed, %v", again, replayed, same)
		}
		want(t, counts(t, b, o.ID), "30 accepted, 0 open, 9 succeeded, 1 failed, 20 canceled, complete true")
		if _, err := b.OpenBatch(t.Context(), "a", "k", []byte("other"), 1, nil); !errors.Is(err, broker.ErrIdempotencyMismatch) {
			t.Errorf("another payload: %v", err)
		}
		if other, err := b.OpenBatch(t.Context(), "b", "k", []byte("k"), 1, nil); err != nil || other.ID == o.ID || b.VerifyBatch(o.ID, "b") == nil {
			t.Errorf("another tenant: %+v, %v", other, err)
		}

		most := time.Until(o.Ends) + time.Second
		for _, key := range redis.Keys(t) {
			if strings.Contains(key, ":open:") {
				t.Errorf("%s is left", key)
			}
			if !strings.Contains(key, o.ID.String()) {
				continue
			}
			if left := redis.Client.PTTL(t.Context(), key).Val(); left <= 0 || left > most {
				t.Errorf("%s is kept for %v, want at most %v", key, left, most)
			}
		}
	})
}

// TestBatchWhilePartitionsAreAdded: its key, and those of its items, mean the same
// at every gateway, before, during and after.
func TestBatchWhilePartitionsAreAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini, dial := redistest.Pipe(t)
		gateway := func(partitions int) *broker.Broker {
			b, err := broker.Open(t.Context(), broker.Options{
				URL: "redis://bubble:6379", Dial: dial, Partitions: partitions, Logger: slog.New(slog.DiscardHandler),
				Services: map[string]broker.ServiceConfig{"echo": {}},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			return b
		}
		accepted := map[string][]correlation.ID{}
		check := func(b *broker.Broker, key string) {
			t.Helper()
			_, ids, replayed := batchOf(t, b, key, 4, echoes)
			if before, known := accepted[key]; known && (replayed != 4 || !slices.Equal(before, ids)) {
				t.Errorf("%s: %d replayed, %v, was %v", key, replayed, ids, before)
			}
			accepted[key] = ids
		}
		a := gateway(1)
		for i := range 4 {
			check(a, fmt.Sprint("before-", i))
		}
		for _, id := range accepted["before-0"] { // forgotten before the raise
			if err := a.Delete(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		b := gateway(3)
		for n := range 20 {
			time.Sleep(500 * time.Millisecond)
			first, second := a, b
			if n%2 == 0 {
				first, second = b, a
			}
			check(first, fmt.Sprint("moment-", n))
			check(second, fmt.Sprint("moment-", n))
			check(b, "before-0")
		}
		time.Sleep(time.Minute) // the new homes hold
		for key := range accepted {
			check(b, key)
		}
		for _, ids := range accepted {
			for _, id := range ids {
				if err := b.Delete(t.Context(), id); err != nil && !errors.Is(err, broker.ErrGone) {
					t.Fatal(err)
				}
			}
		}
		mini.FastForward(4 * time.Minute)
		for _, key := range mini.Keys() {
			if strings.Contains(key, ":batch:") || strings.Contains(key, ":open:") || strings.Contains(key, ":outcomes:") || strings.Contains(key, ":idempotency:") {
				t.Errorf("%s is left", key)
			}
		}
	})
}

// TestBatchLostItsGateway: one that nobody closed counts as whole after a while.
func TestBatchLostItsGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, dial := redistest.Pipe(t)
		b, err := broker.Open(t.Context(), broker.Options{
			URL: "redis://bubble:6379", Dial: dial, Partitions: 2, Logger: slog.New(slog.DiscardHandler),
			Services: map[string]broker.ServiceConfig{"echo": {}},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		o, err := b.OpenBatch(t.Context(), "a", "", nil, 2, []broker.Submission{{Service: "echo"}})
		if err != nil {
			t.Fatal(err)
		}
		r, _, err := b.Submit(t.Context(), broker.Submission{Tenant: "a", Service: "echo", Batch: &broker.Item{Batch: o.ID, Ends: o.Ends}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Cancel(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
		want(t, counts(t, b, o.ID), "1 accepted, 0 open, 0 succeeded, 0 failed, 1 canceled, complete false")
		time.Sleep(61 * time.Second)
		want(t, counts(t, b, o.ID), "1 accepted, 0 open, 0 succeeded, 0 failed, 1 canceled, complete true")
	})
}
