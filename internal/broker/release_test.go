package broker_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Whoever is released from the line is the same on the stream, whether or not its record may
// be brief from then on.
func TestReleasedAlike(t *testing.T) {
	type request = broker.Submission
	for i, change := range []func(*request){
		func(*request) {},
		func(s *request) { s.Tenant, s.Priority = "acme", broker.PriorityHigh },
		func(s *request) { s.Body, s.ContentType, s.Headers = nil, "", map[string]string{"a": "b"} },
		func(s *request) {
			s.Traceparent, s.Tags = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", []string{"a", "b"}
		},
		func(s *request) {
			s.IdempotencyKey = string(s.Body)
			s.Callback = &broker.Callback{URL: "https://192.0.2.1/hook", Events: []string{"succeeded"}}
		},
		func(s *request) { s.StartTimeout, s.Retention, s.MaxAttempts = time.Minute, time.Hour, 7 },
		func(s *request) { s.RunTimeout = time.Minute },
		func(s *request) { s.StartTimeout, s.RunTimeout = 2*time.Second, time.Second },
	} {
		stored := map[string]string{}
		for _, as := range []string{"string", "hash"} {
			synctest.Test(t, func(t *testing.T) { stored[as] = released(t, as, change) })
		}
		if a, b := stored["string"], stored["hash"]; a != b {
			t.Errorf("%d: as a brief record:\n%s\nas a hash:\n%s", i, without(a, b), without(b, a))
		}
	}
}

// released is what there is in Redis of two requests that were released from the line.
func released(t *testing.T, as string, change func(*broker.Submission)) string {
	_, dial := redistest.Pipe(t)
	b := open(t, &redistest.Redis{URL: "redis://pipe:1"}, func(o *broker.Options) { o.Dial = dial })
	defer b.Close()
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", Dialer: dial})
	defer c.Close()
	if err := b.Pause(t.Context(), "echo"); err != nil {
		t.Fatal(err)
	}
	ids := []correlation.ID{submit(t, b, "one", change).ID, submit(t, b, "two", change).ID}
	time.Sleep(time.Second)
	for _, id := range ids {
		if as == "hash" {
			c.HSet(t.Context(), "cc:{0}:request:"+id.String(), "what", "no brief record has")
		}
	}
	if err := b.Resume(t.Context(), "echo"); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		key := "cc:{0}:request:" + id.String()
		if got := c.Type(t.Context(), key).Val(); got != as {
			t.Errorf("%s is a %s, and was to be a %s", id, got, as)
		}
		if as == "hash" {
			c.HDel(t.Context(), key, "what")
		}
	}
	return oneWay(t, dial, ids, nil)
}

// A release that was stopped on its way puts nobody on the stream a second time.
func TestReleasedOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		if err := b.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			submit(t, b, fmt.Sprint(i))
		}
		line := redis.Client.ZRangeWithScores(t.Context(), "cc:{0}:waiting:echo", 0, -1).Val()
		if err := b.Resume(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
		held := take(t, b, 3)
		send(t, b, held[0], broker.WorkerReply{Type: "final"})
		settle(t, b)
		redis.Client.ZAdd(t.Context(), "cc:{0}:waiting:echo", line...)
		regulate(t, b, "echo")
		if n := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val(); len(line) != 20 || n != 19 {
			t.Errorf("of %d, one of which has its outcome, %d are on the stream", len(line), n)
		}
		if n := redis.Client.ZCard(t.Context(), "cc:{0}:waiting:echo").Val(); n != 0 {
			t.Errorf("%d stand in the line, and are on the stream", n)
		}
	})
}
