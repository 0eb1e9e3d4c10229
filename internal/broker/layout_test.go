package broker_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

var update = flag.Bool("update", false, "write the golden files")

// What stands in Redis is an interface too: workers in other languages, a
// gateway of another version and whoever looks with redis-cli rely on it. A
// change here needs a thought about all three.
func TestKeyLayout(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		callback := func(s *broker.Submission) {
			s.Callback = &broker.Callback{URL: "https://example.com/hook", Events: []string{"succeeded", "progress"}}
			s.IdempotencyKey = "key"
			s.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
			s.Headers = map[string]string{"accept": "text/plain"}
		}
		stages := []struct {
			name string
			do   func()
		}{
			{"started", func() {}},
			{"queued", func() { submit(t, b, "body", callback) }},
			{"running, with progress", func() {
				d := claim(t, b)
				send(t, b, d, broker.WorkerReply{Type: "progress", ContentType: "text/plain", Body: []byte("half"), Seq: 1})
				settle(t, b)
				send(t, b, d, broker.WorkerReply{Type: "final", ContentType: "text/plain", Body: []byte("done"), Seq: 2})
			}},
			{"succeeded", func() { settle(t, b) }},
			{"scheduled for another attempt", func() {
				submit(t, b, "body")
				send(t, b, claim(t, b), broker.WorkerReply{Type: "retry", Delay: time.Minute})
				settle(t, b)
			}},
			{"failed, two dead letters", func() {
				fails(t, b, "body", "boom")
				fails(t, b, "body", "boom")
			}},
			{"one of them redriven by a job", func() {
				if _, err := b.RedriveAll(t.Context(), broker.RedriveFilter{Limit: 1}); err != nil {
					t.Fatal(err)
				}
				pursue(t, b)
			}},
			{"a batch, one of two items succeeded", func() {
				o, _, _ := batchOf(t, b, "k", 2, echoes)
				send(t, b, claim(t, b), broker.WorkerReply{Type: "final", Body: bytes.Repeat([]byte("long "), 20)})
				settle(t, b)
				if _, err := b.Batch(t.Context(), o.ID, broker.BatchAsk{Attach: true}); err != nil {
					t.Fatal(err)
				}
			}},
		}
		var layout strings.Builder
		for _, stage := range stages {
			stage.do()
			fmt.Fprintf(&layout, "# %s\n", stage.name)
			var lines []string
			for _, key := range redis.Keys(t) {
				kind := redis.Client.Type(t.Context(), key).Val()
				lines = append(lines, fmt.Sprintf("%s %s %s\n", shape(key), kind, strings.Join(members(t, redis, key, kind), " ")))
			}
			slices.Sort(lines)
			fmt.Fprintln(&layout, strings.Join(lines, ""))
		}
		golden := filepath.Join("testdata", "layout.golden")
		if *update {
			if err := os.WriteFile(golden, []byte(layout.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), layout.String()); diff != "" {
			t.Errorf("the layout changed (-golden +now); `go test ./internal/broker -run TestKeyLayout -update` writes it anew:\n%s", diff)
		}
	})
}

// shape is a key without what differs from run to run.
func shape(key string) string {
	for _, kind := range []string{":request:", ":events:", ":reply:", ":batch:", ":open:", ":outcomes:", ":redrive:"} {
		if head, rest, found := strings.Cut(key, kind); found && len(rest) >= 36 {
			return head + kind + "<id>"
		}
	}
	if head, _, found := strings.Cut(key, ":idempotency:"); found {
		return head + ":idempotency:<hash>"
	}
	return key
}

// members are the field names of a key, and whether it expires.
func members(t *testing.T, redis *redistest.Redis, key, kind string) (names []string) {
	t.Helper()
	ctx := t.Context()
	switch kind {
	case "hash":
		for field := range redis.Client.HGetAll(ctx, key).Val() {
			if status, _, found := strings.Cut(field, ":"); found && strings.HasSuffix(key, ":kept") {
				field = status + ":<slot>"
			}
			names = append(names, field)
		}
	case "stream":
		for _, entry := range redis.Client.XRange(ctx, key, "-", "+").Val() {
			for field := range entry.Values {
				names = append(names, field)
			}
		}
		for _, group := range redis.Client.XInfoGroups(ctx, key).Val() {
			names = append(names, "group="+group.Name)
		}
	case "zset", "list", "string":
		if id, found := strings.CutPrefix(key, "cc:{0}:request:"); found {
			names = slices.Collect(maps.Keys(recordOf(ctx, t, redis.Client, id)))
			break
		}
		n := map[string]int64{
			"zset": redis.Client.ZCard(ctx, key).Val(), "list": redis.Client.LLen(ctx, key).Val(), "string": 1,
		}[kind]
		names = append(names, fmt.Sprintf("members=%d", n))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if redis.Client.PTTL(ctx, key).Val() > 0 {
		names = append(names, "expires")
	}
	return names
}
