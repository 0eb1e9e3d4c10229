package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A request is the same in Redis whichever way its reply was applied, and the same is
// told of it: by succeed.lua, which stores plain ones, or by settle.lua, which takes any.
func TestPlainRepliesAreAppliedAsOthers(t *testing.T) {
	type request = broker.Submission
	type reply = broker.WorkerReply
	long := []byte(strings.Repeat("long ", 100))
	kinds := []struct {
		submit func(*request)
		reply  func(*reply)
		waits  bool // somebody does, for the reply
		before string
	}{
		{},
		{reply: func(r *reply) { r.Body = long }},
		{reply: func(r *reply) { r.Body, r.ContentType = nil, "" }},
		{reply: func(r *reply) {
			r.StatusCode, r.Headers, r.ContentType = 404, map[string]string{"x-a": "b"}, "text/\x01plain"
		}},
		{reply: func(r *reply) { r.StatusCode = 99 }},
		{submit: func(s *request) { s.IdempotencyKey, s.Tags = "key", []string{"a"} }},
		{submit: func(s *request) {
			s.Callback = &broker.Callback{URL: "https://192.0.2.1/hook", Events: []string{"succeeded"}}
		}, reply: func(r *reply) { r.Body = long }},
		{submit: func(s *request) {
			s.Callback, s.Tenant = &broker.Callback{URL: "https://192.0.2.1/hook", Events: []string{"failed"}}, "other"
		}, reply: func(r *reply) { r.Body = long }},
		{submit: func(s *request) { s.StartTimeout, s.RunTimeout, s.Retention = time.Minute, time.Minute, time.Hour }},
		{submit: func(s *request) { s.StartTimeout = 5 * time.Millisecond }},
		{submit: func(s *request) { s.RunTimeout = 5 * time.Millisecond }},
		{submit: func(s *request) { s.Timeout = 15 * time.Millisecond }},
		{waits: true},
		{submit: func(s *request) { s.Service = "limited" }},
		{submit: func(s *request) { s.OrderingKey = "order" }},
		{submit: func(s *request) { s.Minimal = true }},
		{reply: func(r *reply) { r.CacheTTL = time.Minute }},
		{reply: func(r *reply) { r.Seq = 1 }},
		{reply: func(r *reply) { r.Seq = 3 }},
		{reply: func(r *reply) { r.Type, r.Error = "failed", &broker.Error{Code: "e", Message: "m"} }},
		{reply: func(r *reply) { r.Body = []byte(strings.Repeat("x", 5000)) }},
		{before: "partial"},
		{before: "final"},
		{before: "heartbeat", reply: func(r *reply) { r.Body = long }},
	}
	ways := map[string]func(*broker.Broker){"plain": func(*broker.Broker) {}, "general": broker.SettleGenerally}
	const rounds = 2 // no more than a line lets on to the stream
	stored := map[string]string{}
	for way, choose := range ways {
		synctest.Test(t, func(t *testing.T) {
			mini, dial := redistest.Pipe(t)
			defer mini.Close()
			b := open(t, &redistest.Redis{URL: "redis://pipe:1"}, func(o *broker.Options) {
				o.Dial, o.MaxReply, o.Name = dial, 4000, "gateway"
				o.Services["limited"] = broker.ServiceConfig{Concurrency: 100}
			})
			defer b.Close()
			choose(b)
			names := []string{}
			for range rounds {
				for _, k := range kinds {
					s := broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", ContentType: "text/plain", Body: []byte("body")}
					if k.submit != nil {
						k.submit(&s)
					}
					if s.IdempotencyKey != "" {
						s.IdempotencyKey = fmt.Sprint("key ", len(names))
					}
					r, _, err := b.Submit(t.Context(), s)
					if err != nil {
						t.Fatal(err)
					}
					if k.waits {
						if _, err := b.Attach(t.Context(), r.ID); err != nil {
							t.Fatal(err)
						}
					}
					id := r.ID.String()
					names = append(names, id, fmt.Sprintf("<%s %d>", s.Service, len(names)/2))
				}
			}
			time.Sleep(10 * time.Millisecond)
			held := make([]broker.Delivery, rounds*len(kinds)) // the orderly ones after the first have to wait
			for left := len(held) - rounds + 1; left > 0; {
				got, err := b.Claim(t.Context(), "w1", []string{"echo", "limited"}, 100, time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range got {
					held[slices.Index(names, d.ID)/2], left = d, left-1
				}
			}
			time.Sleep(10 * time.Millisecond)
			for i, d := range held {
				if d.ID == "" {
					continue
				}
				k, r := kinds[i%len(kinds)], broker.WorkerReply{Type: "final", ContentType: "text/plain", Body: []byte("short")}
				if k.reply != nil {
					k.reply(&r)
				}
				if k.before != "" {
					send(t, b, d, broker.WorkerReply{Type: k.before, Body: []byte("one")})
				}
				send(t, b, d, r)
				if i%20 == 19 {
					time.Sleep(time.Millisecond)
				}
			}
			time.Sleep(10 * time.Millisecond)
			facts, more := []broker.Fact{}, true
			for more {
				var some []broker.Fact
				var err error
				if some, more, err = b.Settle(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
				facts = append(facts, some...)
			}
			stored[way] = everything(t, dial, names, facts)
		})
	}
	if d := cmp.Diff(stored["general"], stored["plain"]); d != "" {
		t.Errorf("settle.lua stores (-), succeed.lua (+):\n%s", d)
	}
}

// everything is what is in a Redis whose clock stands still, and what was told, with
// IDs as names has them: each followed by what stands for it.
func everything(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), names []string, facts []broker.Fact) string {
	t.Helper()
	ctx := t.Context()
	c := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", Dialer: dial})
	defer c.Close()
	for i := 0; i < len(names); i += 2 {
		if nonce := recordOf(ctx, t, c, names[i])["nonce"]; nonce != "" {
			names = append(names, nonce, "<nonce>")
		}
	}
	var lines []string
	for _, key := range c.Keys(ctx, "cc:{0}:*").Val() {
		if id, found := strings.CutPrefix(key, "cc:{0}:request:"); found && c.Type(ctx, key).Val() == "string" {
			left := c.PTTL(ctx, key).Val()
			unfolded(ctx, t, c, id)
			if reply := c.HGet(ctx, key, "reply").Val(); len(reply) > 64 {
				c.HDel(ctx, key, "reply")
				lines = append(lines, fmt.Sprint("cc:{0}:reply:", id, " ", left, " ", reply))
			}
			if left > 0 {
				c.PExpire(ctx, key, left)
			}
		}
		var values []string
		switch c.Type(ctx, key).Val() {
		case "hash":
			for field, value := range c.HGetAll(ctx, key).Val() {
				values = append(values, field+"="+value)
			}
		case "stream":
			for _, entry := range c.XRange(ctx, key, "-", "+").Val() {
				values = append(values, fmt.Sprint(entry.ID, entry.Values))
			}
			if p, err := c.XPending(ctx, key, "workers").Result(); err == nil {
				values = append(values, fmt.Sprint(p.Count, " pending"))
			}
		case "zset":
			for _, z := range c.ZRangeWithScores(ctx, key, 0, -1).Val() {
				values = append(values, fmt.Sprintf("%v@%.0f", z.Member, z.Score))
			}
		case "list":
			values = c.LRange(ctx, key, 0, -1).Val()
		case "string":
			values = append(values, c.Get(ctx, key).Val())
		}
		for _, v := range values {
			lines = append(lines, fmt.Sprint(key, " ", c.PTTL(ctx, key).Val(), " ", v))
		}
	}
	for _, f := range facts {
		lines = append(lines, fmt.Sprint("told: ", f))
	}
	plain := strings.NewReplacer(names...)
	for i := range lines {
		lines[i] = plain.Replace(lines[i])
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A worker may send its reply twice. The second is settled by the same call as the first,
// though not read together with it: its entry is pending still, and its record is not what
// it was.
func TestSecondReplyBehindTheFirst(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b := open(t, r)
		tagged := func(s *broker.Submission) { s.Tags = []string{"a"} }
		id := submit(t, b, "x", tagged).ID
		submit(t, b, "y", tagged)
		one, other := claim(t, b), claim(t, b)
		for _, body := range []string{"first", "second"} {
			send(t, b, one, broker.WorkerReply{Type: "final", Body: []byte(body)})
			send(t, b, other, broker.WorkerReply{Type: "final", Body: []byte(body)})
		}
		settle(t, b)
		if got, err := b.Status(t.Context(), id); err != nil || got.Status != broker.Succeeded || string(got.Reply.Body) != "first" {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// Between the look at a record and the outcome, anything may happen to the request: then
// the reply is settled by what is so now.
func TestPlainReplyToARecordThatChanged(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		proxy := redis.Proxy(t)
		b, other := open(t, redis, func(o *broker.Options) { o.URL = proxy.URL }), open(t, redis)
		told, resumed := hear(t, other)
		<-resumed
		between := func(do func(correlation.ID)) (correlation.ID, []string) {
			id := submit(t, b, "x").ID
			send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: []byte("y")})
			var once sync.Once
			proxy.Lose(func(sent []byte) bool {
				if bytes.Contains(sent, []byte("evalsha\r\n")) {
					once.Do(func() { do(id) })
				}
				return false
			})
			return id, settle(t, b)
		}
		id, facts := between(func(id correlation.ID) {
			if _, err := other.Attach(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
		select {
		case w := <-told:
			if w.ID != id || w.Outcome == nil || len(facts) != 1 {
				t.Errorf("who came in between was told %+v; %v", w, facts)
			}
		case <-time.After(10 * time.Second):
			t.Error("who came in between was told nothing")
		}
		_, facts = between(func(id correlation.ID) {
			if _, err := other.Cancel(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
		if len(facts) != 1 || facts[0] != "late" {
			t.Errorf("canceled in between: %v", facts)
		}
		_, facts = between(func(correlation.ID) { settle(t, other) })
		if len(facts) != 0 {
			t.Errorf("settled by another in between: %v", facts)
		}
	})
}

// A worker may be heard while its entry is nobody's, since the group was lost: then the
// request is queued, and has events. Its outcome is numbered behind those.
func TestPlainReplyAfterTheGroupWasLost(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b := open(t, r)
		id := submit(t, b, "x", func(s *broker.Submission) {
			s.Callback = &broker.Callback{URL: "https://192.0.2.1/hook", Events: []string{"succeeded"}}
		}).ID
		lost := claim(t, b)
		if err := r.Client.XGroupDestroy(t.Context(), "cc:{0}:queue:echo", "workers").Err(); err != nil {
			t.Fatal(err)
		}
		send(t, b, lost, broker.WorkerReply{Type: "progress", Body: []byte("1")})
		settle(t, b)
		if got, err := b.Claim(t.Context(), "w2", []string{"echo"}, 1, time.Millisecond); err != nil || len(got) > 0 {
			t.Fatalf("the group was not lost: %v, %v", got, err)
		}
		send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
		settle(t, b)
		if got, err := b.Status(t.Context(), id); err != nil || got.Status != broker.Succeeded || got.Events != 2 {
			t.Errorf("%+v, %v", got, err)
		}
		owed, err := r.Client.XRange(t.Context(), "cc:{0}:callbacks", "-", "+").Result()
		if err != nil || len(owed) != 1 || owed[0].Values["number"] != "2" {
			t.Errorf("owed: %v, %v", owed, err)
		}
	})
}
