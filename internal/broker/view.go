package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// DefaultTenant owns the requests where no API keys are configured.
const DefaultTenant = "default"

// The places of what view in outcome.lua returns.
const (
	viewService = iota
	viewPlan
	viewTenant
	viewStatus
	viewAttempt
	viewEntry
	viewStarted
	viewWorker
	viewSeq
	viewCallback
	viewTrace
	viewRetryOf
	viewRelease
	viewHistory
	viewPolicy
	viewTags
	viewScatter
	viewShared
	viewRank
	viewOpen // fields there are without an outcome; of a scatter legFields more for each leg
)

// What it returns besides of what has its outcome, before the legs.
const (
	viewFinished = iota + viewOpen
	viewReason
	viewCode
	viewMessage
	viewReplyType
	viewReplyStatus
	viewReplyHeaders
	viewRetriedAs
	viewReplySize
	viewReply
	viewFields
)

// The places of what legs in outcome.lua returns of a leg.
const (
	legService = iota
	legStatus
	legAttempt
	legStarted
	legWorker
	legFinished
	legReason
	legCode
	legMessage
	legReplyType
	legReplyStatus
	legReplySize
	legReply
	legFields
)

// parseView turns what view in outcome.lua returns into a record.
func parseView(id correlation.ID, raw any) (Record, error) {
	if raw == nil {
		return Record{}, ErrGone
	}
	v := texts(raw)
	own := viewOpen
	if len(v) > viewStatus && Status(v[viewStatus]).Terminal() {
		own = viewFields
	}
	if len(v) < own || (len(v)-own)%legFields != 0 {
		return Record{}, fmt.Errorf("record has %d fields instead of %d", len(v), own)
	}
	plan := strings.Fields(v[viewPlan])
	if len(plan) != 10 {
		return Record{}, fmt.Errorf("plan has %d parts instead of 10", len(plan))
	}
	created := millis(plan[0])
	r := Record{
		ID: id, Tenant: v[viewTenant], Service: v[viewService], Status: Status(v[viewStatus]),
		Attempt: int(number(v[viewAttempt])), Worker: validText(v[viewWorker]),
		Created: created, Queued: entryTime(v[viewEntry]), Started: millis(v[viewStarted]),
		Deadline: created.Add(msec(plan[1])),
		Events:   int(number(v[viewSeq])), RetryOf: v[viewRetryOf], Traceparent: v[viewTrace],
		Ordinal: number(plan[8]), Rank: int(number(v[viewRank])), Release: millis(v[viewRelease]), Priority: priorityIn(v[viewPolicy]),
		Minimal: strings.Contains(plan[7], "m"), MaxAttempts: int(number(plan[5])), Attempts: parseHistory(v[viewHistory]),
	}
	if v[viewTags] != "" {
		r.Tags = strings.Fields(v[viewTags])
	}
	if r.Tenant == "" {
		r.Tenant = DefaultTenant
	}
	if url := v[viewCallback]; url != "" {
		r.Callback = &Callback{URL: url, Events: eventNames(plan[7])}
	}
	if shared := strings.Fields(v[viewShared]); len(shared) == 3 {
		r.Cache = shared[1]
		if !r.Queued.IsZero() && r.Queued.Before(created) {
			r.Queued = created // it joined a run that was on the stream
		}
		if r.Cache == CacheHit {
			r.CachedAt = millis(shared[2])
		}
	}
	if v[viewScatter] != "" {
		r.MinReplies = int(number(strings.Fields(v[viewScatter])[1]))
		for at := own; at < len(v); at += legFields {
			r.Legs = append(r.Legs, parseLeg(v[at:at+legFields], r.Minimal))
		}
	}
	if r.Status.Terminal() {
		r.RetriedAs = v[viewRetriedAs]
		r.end(ending{
			finished: millis(v[viewFinished]), retention: msec(plan[6]), reason: v[viewReason], code: v[viewCode], message: v[viewMessage],
			rtype: v[viewReplyType], rstatus: v[viewReplyStatus], headers: decodeHeaders([]byte(v[viewReplyHeaders])), size: int(number(v[viewReplySize])), reply: v[viewReply],
		})
	}
	return r, nil
}

// end puts its outcome into a record that has all else.
func (r *Record) end(e ending) {
	r.Events++ // the outcome is the last event
	r.Reason, r.Finished, r.Expires = e.reason, e.finished, e.finished.Add(e.retention)
	if e.code != "" || e.message != "" {
		r.Error = &Error{Code: validText(e.code), Message: validText(e.message)}
	}
	if r.Legs != nil {
		r.Reply = gathered(*r)
		return
	}
	if e.size > 0 || e.rtype != "" || r.Status == Succeeded && !r.Minimal {
		r.Reply = &Reply{ContentType: e.rtype, StatusCode: replyStatus(r.Status, e.rstatus), Size: e.size, Headers: e.headers}
		if len(e.reply) == e.size {
			r.Reply.Body = []byte(e.reply)
		}
	}
}

func parseLeg(v []string, minimal bool) Leg {
	l := Leg{
		Service: v[legService], Status: Status(v[legStatus]), Reason: v[legReason], Attempt: int(number(v[legAttempt])),
		Worker: validText(v[legWorker]), Started: millis(v[legStarted]), Finished: millis(v[legFinished]),
	}
	if v[legCode] != "" || v[legMessage] != "" {
		l.Error = &Error{Code: validText(v[legCode]), Message: validText(v[legMessage])}
	}
	if size := int(number(v[legReplySize])); size > 0 || v[legReplyType] != "" || l.Status == Succeeded && !minimal {
		l.Reply = &Reply{ContentType: v[legReplyType], StatusCode: replyStatus(l.Status, v[legReplyStatus]), Size: size}
		if len(v[legReply]) == size {
			l.Reply.Body = []byte(v[legReply])
		}
	}
	return l
}

// replyStatus is what the worker said, or what goes without saying.
func replyStatus(s Status, said string) int {
	switch code := int(number(said)); {
	case code != 0:
		return code
	case s == Failed:
		return 500
	default:
		return 200
	}
}

// parseHistory reads the attempts before the present one, oldest first; see
// next_attempt in moves.lua.
func parseHistory(text string) (attempts []Attempt) {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 6)
		if len(f) == 6 {
			attempts = append(attempts, Attempt{
				Number: int(number(f[0])), Started: millis(f[1]), Ended: millis(f[2]),
				Worker: validText(f[3]), Error: Error{Code: validText(f[4]), Message: validText(f[5])},
			})
		}
	}
	slices.Reverse(attempts)
	return attempts
}

// tenantText is a tenant as the record has it: the default one costs nothing.
func tenantText(tenant string) string {
	if tenant == DefaultTenant {
		return ""
	}
	return tenant
}

// eventNames reads the letters that eventLetters wrote.
func eventNames(letters string) []string {
	names := map[rune]string{'s': "succeeded", 'f': "failed", 't': "timed_out", 'c': "canceled", 'p': "progress"}
	var events []string
	for _, l := range letters {
		if name := names[l]; name != "" {
			events = append(events, name)
		}
	}
	return events
}

// texts reads a flat answer of a script.
func texts(raw any) []string {
	list, _ := raw.([]any)
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = text(v)
	}
	return out
}

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

// number reads a decimal; 0 where there is none.
func number(text string) int64 {
	if text == "" { // of which strconv would make an error
		return 0
	}
	n, _ := strconv.ParseInt(text, 10, 64) // scripts write them; anything else reads as "not yet"
	return n
}

func msec(text string) time.Duration { return time.Duration(number(text)) * time.Millisecond }

// millis reads Unix milliseconds; the zero time where there are none.
func millis(text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	return time.UnixMilli(number(text)).UTC()
}

// entryTime is when Redis added a stream entry.
func entryTime(entry string) time.Time {
	ms, _, _ := strings.Cut(entry, "-")
	return millis(ms)
}

// validText makes what a worker wrote fit for JSON and logs.
func validText(s string) string { return strings.ToValidUTF8(s, "�") }
