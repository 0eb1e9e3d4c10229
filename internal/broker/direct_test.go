package broker_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A request is the same in Redis whichever of the two scripts took it in.
func TestDirectStoresWhatSubmitDoes(t *testing.T) {
	kinds := map[string]func(*broker.Submission){
		"plain": func(*broker.Submission) {},
		"with everything that is plain": func(s *broker.Submission) {
			s.Callback = &broker.Callback{URL: "https://example.com/hook", Events: []string{"succeeded", "progress"}}
			s.IdempotencyKey, s.Traceparent, s.Tags = "key", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", []string{"a", "b"}
			s.Headers = map[string]string{"accept": "text/plain"}
			s.Minimal = true
		},
		"with a start timeout": func(s *broker.Submission) { s.StartTimeout = 2 * time.Second },
		"with a run timeout":   func(s *broker.Submission) { s.RunTimeout, s.StartTimeout = time.Second, 3*time.Second },
		"long clocks":          func(s *broker.Submission) { s.Timeout, s.Retention, s.MaxAttempts = 20*time.Hour, time.Hour, 7 },
	}
	ways := map[string]func(*broker.Broker, context.Context, broker.Submission) (broker.Record, bool, error){
		"direct": (*broker.Broker).Submit,
		"general": func(b *broker.Broker, ctx context.Context, s broker.Submission) (broker.Record, bool, error) {
			return broker.SubmitGeneral(ctx, b, s)
		},
	}
	for name, change := range kinds {
		t.Run(name, func(t *testing.T) {
			stored := map[string]string{}
			for way, submit := range ways {
				redis := redistest.Embedded(t)
				b := open(t, redis)
				s := broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", ContentType: "text/plain", Body: []byte("body")}
				change(&s)
				r, _, err := submit(b, t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				stored[way] = alone(contents(t, redis, r))
			}
			if d := cmp.Diff(stored["general"], stored["direct"]); d != "" {
				t.Errorf("submit.lua stores (-), direct.lua (+):\n%s", d)
			}
		})
	}
}

// alone is contents with what makes requests wait together, which submit.lua does not,
// written as a place in due.
func alone(contents string) string {
	lines := strings.Split("\n"+contents, "\ncc:")
	for i, line := range lines {
		line = regexp.MustCompile(`^(\S+:)clocks (\S+) \+0 (\+\d+) 0 <id>@.*$`).ReplaceAllString(line, "${1}due $2 <id>@$3")
		line = regexp.MustCompile(`(plan=\+0 .*) d (\d+ \d+)`).ReplaceAllString(line, "$1 - $2")
		lines[i] = regexp.MustCompile(`(plan=\+0 .*)d (\d+ \d+)`).ReplaceAllString(line, "$1 $2")
	}
	slices.Sort(lines)
	return strings.Join(lines, "\ncc:")
}

// contents are all values in Redis, with what differs from one request to the next
// written by its name: instants as ms since r was accepted.
func contents(t *testing.T, redis *redistest.Redis, r broker.Record) string {
	t.Helper()
	ctx := t.Context()
	record := recordOf(ctx, t, redis.Client, r.ID.String())
	instants := regexp.MustCompile(`\b1[0-9]{12}\b`)
	plain := strings.NewReplacer(r.ID.String(), "<id>", record["nonce"], "<nonce>", record["entry"], "<entry>")
	var lines []string
	for _, key := range redis.Keys(t) {
		if !strings.HasPrefix(key, "cc:{0}:") || strings.HasSuffix(key, ":steward") {
			continue
		}
		var values []string
		switch redis.Client.Type(ctx, key).Val() {
		case "hash":
			for field, value := range redis.Client.HGetAll(ctx, key).Val() {
				values = append(values, field+"="+value)
			}
		case "stream":
			for _, entry := range redis.Client.XRange(ctx, key, "-", "+").Val() {
				values = append(values, fmt.Sprint(entry.ID, entry.Values))
			}
		case "zset":
			for _, z := range redis.Client.ZRangeWithScores(ctx, key, 0, -1).Val() {
				values = append(values, fmt.Sprintf("%v@%.0f", z.Member, z.Score))
			}
		case "string":
			id, found := strings.CutPrefix(key, "cc:{0}:request:")
			if !found {
				values = append(values, redis.Client.Get(ctx, key).Val())
				break
			}
			for field, value := range recordOf(ctx, t, redis.Client, id) {
				values = append(values, field+"="+value)
			}
		}
		slices.Sort(values)
		line := fmt.Sprintf("%s expires=%t %s", key, redis.Client.PTTL(ctx, key).Val() > 0, strings.Join(values, "\n  "))
		lines = append(lines, instants.ReplaceAllStringFunc(plain.Replace(line), func(ms string) string {
			n, _ := strconv.ParseInt(ms, 10, 64)
			return fmt.Sprintf("+%d", n-r.Created.UnixMilli())
		}))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Requests that share a pipeline share a script, and each has an answer of its own:
// also those that come twice, are too many, or have a key that means another.
func TestSubmitsTogether(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) {
			o.Services["small"] = broker.ServiceConfig{MaxQueued: 20}
			o.Services["cached"] = broker.ServiceConfig{Coalesce: true}
		})
		const each = 40
		var mu sync.Mutex
		ids, bodies := map[string]bool{}, map[string]string{}
		var full, mismatched, replayed, shared int
		var all sync.WaitGroup
		for i := range each {
			for _, change := range []func(*broker.Submission){
				func(*broker.Submission) {},
				func(s *broker.Submission) { s.Service = "small" },
				func(s *broker.Submission) { s.IdempotencyKey = "same"; s.Body = []byte("same") },
				func(s *broker.Submission) { s.IdempotencyKey = "same"; s.Body = []byte("other") },
				func(s *broker.Submission) { s.Service, s.Body = "cached", []byte("same") },
				func(s *broker.Submission) { s.Delay = time.Hour },
			} {
				all.Go(func() {
					s := broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Body: fmt.Append(nil, "body ", i)}
					change(&s)
					r, again, err := b.Submit(t.Context(), s)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case errors.Is(err, broker.ErrQueueFull):
						full++
					case errors.Is(err, broker.ErrIdempotencyMismatch):
						mismatched++
					case err != nil:
						t.Error(err)
					case again:
						replayed++
					default:
						if ids[r.ID.String()] {
							t.Errorf("%s was given out twice", r.ID)
						}
						ids[r.ID.String()] = true
						bodies[r.ID.String()] = string(s.Body)
						if r.Cache == broker.CacheShared {
							shared++
						}
					}
				})
			}
		}
		all.Wait()
		if full != 20 || mismatched+replayed != 2*each-1 || mismatched != each || shared != each-1 {
			t.Errorf("%d refused as full, %d mismatched, %d replayed, %d shared", full, mismatched, replayed, shared)
		}
		for _, stream := range []string{"echo", "small", "cached"} {
			for _, entry := range redis.Client.XRange(t.Context(), "cc:{0}:queue:"+stream, "-", "+").Val() {
				if id := entry.Values["id"].(string); bodies[id] != entry.Values["body"] {
					t.Errorf("%s was accepted with %q and queued with %q", id, bodies[id], entry.Values["body"])
				}
			}
		}
	})
}

// What may not be twice is not twice in one batch either: a key finds who had it first, an
// ID that was minted twice is minted anew.
func TestTwinsInOneBatch(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		s := broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Body: []byte("same"), IdempotencyKey: "same"}
		ids, answers, err := broker.SubmitTogether(t.Context(), b, false, s, s)
		if err != nil {
			t.Fatal(err)
		}
		if answers[0][0] != "accepted" || answers[1][0] != "replayed" || answers[1][1] != ids[0].String() {
			t.Errorf("two of %v with one key: %q", ids, answers)
		}
		s.IdempotencyKey = ""
		if answers, err = broker.SubmitTwins(t.Context(), b, s); err != nil {
			t.Fatal(err)
		}
		if answers[0][0] != "accepted" || answers[1][0] != "collision" {
			t.Errorf("two with one ID: %q", answers)
		}
		if n := redis.Client.XLen(t.Context(), "cc:{0}:queue:echo").Val(); n != 2 {
			t.Errorf("%d entries for 2 requests", n)
		}
	})
}

// A service whose stream is something else in Redis is nothing to the others that
// share a pipeline with it.
func TestSubmitBesideABrokenService(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Services["broken"] = broker.ServiceConfig{} })
		if err := redis.Client.Del(t.Context(), "cc:{0}:queue:broken").Err(); err != nil {
			t.Fatal(err)
		}
		if err := redis.Client.Set(t.Context(), "cc:{0}:queue:broken", "no stream", 0).Err(); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 40 {
			all.Go(func() {
				if _, _, err := b.Submit(t.Context(), broker.Submission{Service: "broken"}); err == nil {
					t.Error("it was accepted for a service without a stream")
				}
			})
			all.Go(func() {
				if _, _, err := b.Submit(t.Context(), broker.Submission{Service: "echo"}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := redis.Client.ZCard(t.Context(), "cc:{0}:listing:open:").Val(); n != 40 {
			t.Errorf("%d of 40 are listed", n)
		}
	})
}
