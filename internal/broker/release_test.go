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

// Who waits hears of it when its request comes out of what it waited in, or goes back
// there: what it has read is old then.
func TestReleasedIsHeardOf(t *testing.T) {
	type step func(t *testing.T, a *broker.Broker, id correlation.ID)
	pause := func(t *testing.T, a *broker.Broker, _ correlation.ID) {
		if err := a.Pause(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
	}
	resume := func(t *testing.T, a *broker.Broker, _ correlation.ID) {
		if err := a.Resume(t.Context(), "echo"); err != nil {
			t.Fatal(err)
		}
	}
	due := func(t *testing.T, a *broker.Broker, id correlation.ID) {
		for status(t, a, id).Status == broker.Scheduled {
			if _, err := a.Decide(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	again := func(t *testing.T, a *broker.Broker, id correlation.ID) {
		send(t, a, claim(t, a), broker.WorkerReply{Type: "retry", Delay: time.Millisecond})
		settle(t, a)
		pause(t, a, id)
		due(t, a, id) // it stands in the line
	}
	settled := func(t *testing.T, a *broker.Broker, _ correlation.ID) {
		send(t, a, claim(t, a), broker.WorkerReply{Type: "final"})
		settle(t, a)
	}
	first := func(t *testing.T, a *broker.Broker, _ correlation.ID) { submit(t, a, "first", ordered("a")) }
	legs := func(s *broker.Scatter) {
		for i := range s.Legs {
			s.Legs[i].Service = "echo"
		}
	}
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		for name, c := range map[string]struct {
			before  step // the submit, and the attach
			change  func(*broker.Submission)
			scatter bool
			between step
			then    step
		}{
			"released from the line":         {before: pause, then: resume},
			"released for another attempt":   {between: again, then: resume},
			"taken back":                     {then: pause},
			"a leg released":                 {before: pause, scatter: true, then: resume},
			"its delay is over":              {change: func(s *broker.Submission) { s.Delay = time.Millisecond }, then: due},
			"its delay is over, in the line": {before: pause, change: func(s *broker.Submission) { s.Delay = time.Millisecond }, then: due},
			"let in at its gate":             {before: first, change: ordered("a"), then: settled},
		} {
			t.Run(name, func(t *testing.T) {
				redis.Client.FlushAll(t.Context())
				a := open(t, redis, func(o *broker.Options) { o.Services = map[string]broker.ServiceConfig{"echo": {}, "other": {}} })
				b := open(t, redis)
				if c.before != nil {
					c.before(t, a, correlation.ID{})
				}
				var id correlation.ID
				if c.scatter {
					id = scatter(t, a, legs).ID
				} else if c.change != nil {
					id = submit(t, a, "x", c.change).ID
				} else {
					id = submit(t, a, "x").ID
				}
				if c.between != nil {
					c.between(t, a, id)
				}
				mark := submit(t, a, "mark", func(s *broker.Submission) { s.Service = "other" }).ID
				told := listen(t, b)
				for _, id := range []correlation.ID{id, mark} {
					if _, err := b.Attach(t.Context(), id); err != nil {
						t.Fatal(err)
					}
				}
				c.then(t, a, id)
				if _, err := a.Cancel(t.Context(), mark); err != nil { // of which it hears at the latest
					t.Fatal(err)
				}
				heard := false
				for w := <-told; w.ID != mark; w = <-told {
					heard = heard || w.ID == id
				}
				if !heard {
					t.Error("nobody heard of it")
				}
			})
		}
	})
}
