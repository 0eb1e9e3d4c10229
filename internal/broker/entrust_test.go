package broker_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func reserve(t *testing.T, b *broker.Broker) broker.Delivery {
	t.Helper()
	got, err := b.Reserve(t.Context(), "echo", 1, time.Second)
	if err != nil || len(got) != 1 {
		t.Fatalf("reserve: %d deliveries, %v", len(got), err)
	}
	return got[0]
}

func entrust(t *testing.T, b *broker.Broker, held ...broker.Delivery) []broker.Delivery {
	t.Helper()
	got, err := b.Entrust(t.Context(), held)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// nothingIsLeft wants that no worker finds work, since somebody has it all.
func nothingIsLeft(t *testing.T, b *broker.Broker) {
	t.Helper()
	if more, err := b.Claim(t.Context(), "w2", []string{"echo"}, 10, time.Millisecond); err != nil || len(more) != 0 {
		t.Errorf("somebody's work was taken: %v, %v", more, err)
	}
}

// Work that is held is queued to everybody who looks, until a worker has it; its
// lease runs from there.
func TestEntrust(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Partitions = 3 })
		r := submit(t, b, "body")
		held := reserve(t, b)
		if got := status(t, b, r.ID); got.Status != broker.Queued || got.Worker != "" || !got.Started.IsZero() {
			t.Errorf("held: %s by %q", got.Status, got.Worker)
		}
		for range 2 { // a command that is sent twice does no harm
			if got := entrust(t, b, held); len(got) != 1 || string(got[0].Body) != "body" {
				t.Errorf("%+v", got)
			}
		}
		if got := status(t, b, r.ID); got.Status != broker.Running || !strings.HasPrefix(got.Worker, "http:") || got.Started.IsZero() {
			t.Errorf("handed over: %s by %q", got.Status, got.Worker)
		}
		if err := b.Unclaim(t.Context(), held); err != nil {
			t.Fatal(err)
		}
		nothingIsLeft(t, b)
		send(t, b, held, broker.WorkerReply{Type: "progress", Body: []byte("seen")})
		settle(t, b)
		if err := b.Unclaim(t.Context(), held); err != nil {
			t.Fatal(err)
		}
		nothingIsLeft(t, b)
		send(t, b, held, broker.WorkerReply{Type: "final"})
		settle(t, b)
		if got := status(t, b, r.ID); got.Status != broker.Succeeded || got.Attempt != 1 {
			t.Errorf("%+v", got)
		}
		if got := entrust(t, b, held); len(got) != 0 {
			t.Error("what has ended was handed over")
		}
	})
}

// What is held while its service is paused waits like all else of it.
func TestEntrustOfWhatIsPaused(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		r := submit(t, b, "body")
		held := reserve(t, b)
		if err := b.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		if got := entrust(t, b, held); len(got) != 0 {
			t.Fatal("a paused service gave out what was held")
		}
		if got := status(t, b, r.ID); got.Status != broker.Queued || got.Attempt != 1 {
			t.Errorf("while it is paused: %s in attempt %d", got.Status, got.Attempt)
		}
		nothingIsLeft(t, b)
		if err := b.Resume(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		regulate(t, b, "echo")
		if got := take(t, b, 1); len(got) != 1 || got[0].Attempt != 1 {
			t.Errorf("after the pause: %+v", got)
		}
	})
}

// A lot is handed over without what ended while it was held, also after a Redis
// that forgot its scripts.
func TestEntrustOfWhatIsWanted(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		var held []broker.Delivery
		for _, body := range []string{"a", "canceled", "late", "forgotten", "b"} {
			r := submit(t, b, body, func(s *broker.Submission) {
				if body == "late" {
					s.StartTimeout = time.Millisecond
				}
			})
			held = append(held, reserve(t, b))
			switch body {
			case "canceled":
				b.Cancel(t.Context(), r.ID)
			case "forgotten":
				b.Delete(t.Context(), r.ID)
			case "late":
				for now := r.Created; !now.After(r.Created.Add(2 * time.Millisecond)); {
					now, _ = b.Now(t.Context())
				}
			}
		}
		if err := redis.Client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range entrust(t, b, held...) {
			got = append(got, string(d.Body))
		}
		if !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("%v", got)
		}
		if _, err := b.Entrust(t.Context(), []broker.Delivery{{ID: "garbage"}}); err != nil {
			t.Errorf("what no gateway wrote: %v", err)
		}
	})
}

// Work that nobody has seen goes back as if it had not been claimed, and that
// twice does no harm.
func TestUnclaim(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Partitions = 3 })
		r := submit(t, b, "body", func(s *broker.Submission) {
			s.Headers = map[string]string{"x-a": "b"}
			s.StartTimeout = time.Minute
		})
		first := reserve(t, b)
		for range 2 {
			if err := b.Unclaim(t.Context(), first); err != nil {
				t.Fatal(err)
			}
		}
		if got := status(t, b, r.ID); got.Status != broker.Queued || got.Attempt != 1 || !got.Started.IsZero() || got.Worker != "" {
			t.Errorf("%+v", got)
		}
		second := reserve(t, b)
		if second.Attempt != 1 || second.Entry == first.Entry || string(second.Body) != "body" || second.ContentType != "text/plain" || second.Headers["x-a"] != "b" {
			t.Errorf("%+v", second)
		}
		if err := b.Unclaim(t.Context(), first); err != nil { // somebody else's by now
			t.Fatal(err)
		}
		nothingIsLeft(t, b)
		if got := entrust(t, b, first); len(got) != 0 {
			t.Error("handed over to two")
		}
		entrust(t, b, second)
		send(t, b, second, broker.WorkerReply{Type: "final", Body: []byte("done")})
		settle(t, b)
		if err := b.Unclaim(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		if got := status(t, b, r.ID); got.Status != broker.Succeeded || got.Attempt != 1 {
			t.Errorf("%+v", got)
		}
		for _, key := range redis.Keys(t) {
			if strings.Contains(key, "queue:") && redis.Client.XLen(t.Context(), key).Val() != 0 {
				t.Errorf("%s has something left", key)
			}
		}
	})
}

// What was put back is not waited for any more once it has its outcome.
func TestUnclaimedIsNotDueAfterItsEnd(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		r := submit(t, b, "x")
		if err := b.Unclaim(t.Context(), reserve(t, b)); err != nil {
			t.Fatal(err)
		}
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		settle(t, b)
		if got := status(t, b, r.ID); got.Status != broker.Succeeded {
			t.Errorf("it is %s", got.Status)
		}
		if due := redis.Client.ZRange(t.Context(), "cc:{0}:due", 0, -1).Val(); len(due) > 0 {
			t.Errorf("due are %v", due)
		}
	})
}
