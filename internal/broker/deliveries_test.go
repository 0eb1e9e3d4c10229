package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// What a claim reads is what stands on the streams, of all sizes.
func TestClaimReadsAll(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		services := []string{"echo", "other", "third"}
		if err := b.Announce(t.Context(), map[string]broker.Announcement{"echo": {}, "other": {}, "third": {}}); err != nil {
			t.Fatal(err)
		}
		var want []broker.Delivery
		for i, size := range []int{0, 1, 125, 126, 127, 1 << 10, 4094, 4095, 4096, 70_000, 300_000} {
			d := broker.Delivery{
				ID: fmt.Sprint("id", i), Token: fmt.Sprint("token", i), ReplyTo: "cc:{0}:replies", Service: services[i%2],
				Attempt: i, Deadline: time.UnixMilli(1_700_000_000_000 + int64(i)).UTC(), Lease: time.Duration(i) * time.Second,
				ContentType: "text/plain"[:i%11], Traceparent: strings.Repeat("t", i),
				Body: []byte(strings.Repeat("\r\n$-1", size/5+1)[:size]),
			}
			headers := ""
			if i%2 == 1 {
				d.Headers = map[string]string{"x-a": fmt.Sprint(i / 4)} // as the one before, half of the time
				headers = fmt.Sprintf(`{"x-a":"%d"}`, i/4)
			}
			entry, err := redis.Client.XAdd(t.Context(), xadd("cc:{0}:queue:"+d.Service,
				"body", string(d.Body), "more", "", "id", d.ID, "token", d.Token, "reply_to", d.ReplyTo, "service", d.Service,
				"attempt", fmt.Sprint(i), "deadline", fmt.Sprint(d.Deadline.UnixMilli()), "lease", fmt.Sprint(d.Lease.Milliseconds()),
				"content_type", d.ContentType, "traceparent", d.Traceparent, "headers", headers)).Result()
			if err != nil {
				t.Fatal(err)
			}
			d.Entry = entry
			want = append(want, d)
		}
		var got []broker.Delivery
		for len(got) < len(want) {
			some, err := b.Claim(t.Context(), "w", services, 9, 5*time.Millisecond)
			if err != nil || len(some) == 0 {
				t.Fatalf("%d of %d, %v", len(got), len(want), err)
			}
			got = append(got, some...)
		}
		byID := func(a, b broker.Delivery) bool { return a.ID < b.ID }
		if diff := cmp.Diff(want, got, cmpopts.SortSlices(byID)); diff != "" {
			t.Error(diff)
		}
		for i := range got { // each has its own
			for j := range got[i].Body {
				got[i].Body[j] = '.'
			}
			_ = append(got[i].Body, "over"...)
			if got[i].Headers != nil {
				got[i].Headers["x-a"] += "!"
			}
		}
		slices.SortFunc(got, func(a, b broker.Delivery) int { return strings.Compare(a.ID, b.ID) })
		for _, d := range got {
			if d.Service != "echo" && d.Service != "other" || strings.Trim(string(d.Body), ".") != "" {
				t.Errorf("%s was written over", d.ID)
			}
			if strings.Count(d.Headers["x-a"], "!") > 1 {
				t.Errorf("%s shares its headers", d.ID)
			}
		}
		if more, err := b.Claim(t.Context(), "w", services, 9, 5*time.Millisecond); err != nil || len(more) > 0 {
			t.Errorf("then %v, %v", more, err)
		}
	})
}

// An answer that is an error is told as one.
func TestClaimRefused(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		if err := redis.Client.Del(t.Context(), "cc:{0}:queue:echo").Err(); err != nil {
			t.Fatal(err)
		}
		if err := redis.Client.Set(t.Context(), "cc:{0}:queue:echo", "a text", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Claim(context.WithoutCancel(t.Context()), "w", []string{"echo"}, 9, 5*time.Millisecond); err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
			t.Errorf("%v, %v", got, err)
		}
	})
}
