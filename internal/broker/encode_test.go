package broker

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/coatcheck/coatcheck/api"
)

// What is written by hand has the bytes that encoding/json would write.
func TestStatusByHand(t *testing.T) {
	text := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`[a-z0-9 /:-]{1,12}`), rapid.String(), rapid.Just("<a href=\"x\">\\\u2028\x7f\xff\n"))
	number := rapid.OneOf(rapid.Just(0), rapid.Int())
	instant := rapid.Custom(func(t *rapid.T) api.Time {
		if rapid.Bool().Draw(t, "none") {
			return api.Time{}
		}
		ms := rapid.Int64Range(-1<<48, 1<<48).Draw(t, "ms")
		return api.Time(time.UnixMilli(ms).In(time.FixedZone("", 3600)))
	})
	rapid.Check(t, func(t *rapid.T) {
		d := api.Status{
			CorrelationID: text.Draw(t, "id"), Service: text.Draw(t, "service"), Status: api.StatusStatus(text.Draw(t, "status")), Reason: text.Draw(t, "reason"),
			Attempt: number.Draw(t, "attempt"), MaxAttempts: number.Draw(t, "max"), Priority: api.StatusPriority(text.Draw(t, "priority")),
			Error:  api.Error{Code: text.Draw(t, "code"), Message: text.Draw(t, "message")},
			Worker: text.Draw(t, "worker"), Events: number.Draw(t, "events"),
			CreatedAt: instant.Draw(t, "created"), QueuedAt: instant.Draw(t, "queued"), ScheduledFor: instant.Draw(t, "scheduled"), StartedAt: instant.Draw(t, "started"),
			FinishedAt: instant.Draw(t, "finished"), DeadlineAt: instant.Draw(t, "deadline"), ExpiresAt: instant.Draw(t, "expires"),
			RetriedAs: text.Draw(t, "retried"), RetryOf: text.Draw(t, "retry"), Cache: api.StatusCache(text.Draw(t, "cache")), CachedAt: instant.Draw(t, "cached"),
			Tags: rapid.SliceOfN(text, 0, 3).Draw(t, "tags"), QueuePosition: number.Draw(t, "position"), EstimatedStart: instant.Draw(t, "start"),
			Links: api.Links{Self: text.Draw(t, "self"), Reply: text.Draw(t, "reply"), Events: text.Draw(t, "events"), Cancel: text.Draw(t, "cancel")},
		}
		if n := number.Draw(t, "live"); n >= 0 {
			d.LiveWorkers = &n
		}
		if rapid.Bool().Draw(t, "replied") {
			d.Reply = api.Reply{ContentType: text.Draw(t, "type"), StatusCode: number.Draw(t, "code"), Size: number.Draw(t, "size"), Encoding: api.ReplyEncoding(text.Draw(t, "encoding"))}
			d.Reply.Body = api.Raw(rapid.SampledFrom([]string{"", "1", `{"a":"<b>"}`, "{ \"a\" :\n\"b c\u2028\" }", `"x y"`}).Draw(t, "body"))
		}
		if rapid.IntRange(0, 9).Draw(t, "rare") == 0 {
			d.Attempts = []api.Attempt{{Attempt: 1}}
		}
		want, err := encodeJSON(d)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := EncodeJSON(d); err != nil || string(got) != string(want) {
			t.Errorf("%v\n%s\nwant\n%s", err, got, want)
		}
	})
}

func BenchmarkStatusByHand(b *testing.B) {
	now := time.Now()
	d := Document(Record{
		Service: "echo", Status: Succeeded, Attempt: 1, MaxAttempts: 3, Worker: "w", Created: now, Queued: now, Started: now, Finished: now,
		Deadline: now, Expires: now, Events: 1, Reply: &Reply{ContentType: "application/json", StatusCode: 200, Size: 3, Body: []byte(`[1]`)},
	}, "")
	for name, encode := range map[string]func(any) ([]byte, error){"hand": EncodeJSON, "encoding/json": encodeJSON} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := encode(d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
