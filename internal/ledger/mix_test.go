package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

const (
	parts = 3 // of a reply that is sent in parts
	items = 4 // of a batch
	delay = 300 * time.Millisecond
)

// kind is one way to ask, and what must have become of it. submit may be tried again
// with the same key, anywhere; what it returns names what was accepted.
type kind struct {
	name   string
	submit func(ctx context.Context, c *client.Client, n int, r client.Request) (id string, err error)
	verify func(ctx context.Context, a *audit, id, payload string)
	same   bool // many are submitted with the same payload
}

// submitted is how something was submitted.
type submitted struct {
	n       int
	payload string
}

var (
	plain     = kind{name: "plain", submit: to(quick, nil), verify: func(ctx context.Context, a *audit, id, payload string) { a.echoed(ctx, id, payload) }}
	long      = kind{name: "slow", submit: to(slow, nil), verify: func(ctx context.Context, a *audit, id, payload string) { a.dispatched(a.echoed(ctx, id, payload)) }}
	streamed  = kind{name: "streamed", submit: to(talk, nil), verify: verifyStreamed}
	sharing   = kind{name: "shared", submit: to(same, nil), verify: plain.verify, same: true}
	retried   = kind{name: "retried", submit: to(again, nil), verify: verifyRetried}
	dead      = kind{name: "dead", submit: to(broken, nil), verify: verifyDead}
	minimal   = kind{name: "minimal", submit: to(quick, func(r *client.Request, _ int) { r.Minimal = true }), verify: verifyMinimal}
	delayed   = kind{name: "delayed", submit: to(quick, func(r *client.Request, _ int) { r.Delay = delay }), verify: verifyDelayed}
	ordered   = kind{name: "ordered", submit: to(quick, func(r *client.Request, n int) { r.OrderingKey = fmt.Sprint("key-", n%3) }), verify: verifyOrdered}
	first     = kind{name: "high", submit: to(quick, func(r *client.Request, _ int) { r.Priority = "high" }), verify: plain.verify}
	scattered = kind{name: "scattered", submit: scatter, verify: verifyScattered}
	batched   = kind{name: "batched", submit: batch, verify: verifyBatched}
)

// mix is what the requests are, in turn.
var mix = []kind{
	plain, long, streamed, sharing, scattered, long, minimal, batched,
	sharing, long, ordered, delayed, retried, dead, ordered, first,
}

// to submits a request to one service.
func to(service string, change func(*client.Request, int)) func(context.Context, *client.Client, int, client.Request) (string, error) {
	return func(ctx context.Context, c *client.Client, n int, r client.Request) (string, error) {
		if change != nil {
			change(&r, n)
		}
		s, err := c.Submit(ctx, service, r)
		return s.CorrelationID, err
	}
}

func scatter(ctx context.Context, c *client.Client, _ int, r client.Request) (string, error) {
	s, err := c.Scatter(ctx, []string{quick, slow, again}, client.Scatter{Request: r})
	return s.CorrelationID, err
}

// batch returns the IDs of the batch and of all its items.
func batch(ctx context.Context, c *client.Client, _ int, r client.Request) (string, error) {
	body, err := json.Marshal(string(r.Body))
	if err != nil {
		return "", err
	}
	all := make([]api.BatchItem, items)
	for i := range all {
		all[i] = api.BatchItem{Service: quick, Encoding: api.BatchItemEncodingText, ContentType: r.ContentType, Body: body}
	}
	answer, err := c.SubmitBatch(ctx, r.IdempotencyKey, all...)
	if err != nil {
		return "", err
	}
	ids := []string{answer.BatchID}
	for _, i := range answer.Items {
		if i.CorrelationID == "" {
			return "", fmt.Errorf("an item was answered with %d", i.StatusCode)
		}
		ids = append(ids, i.CorrelationID)
	}
	return strings.Join(ids, " "), nil
}

// audit reads what became of everything.
type audit struct {
	t     *testing.T
	fleet *fleet

	mu    sync.Mutex // guards the rest
	again int        // slow requests that were dispatched more than once
	order map[string][]api.Status
}

// dispatched counts a request that another worker had to finish.
func (a *audit) dispatched(s api.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.Attempt > 1 {
		a.again++
	}
}

// ended reads the outcome at every gateway: it is one, and everywhere the same.
func (a *audit) ended(ctx context.Context, id string, want api.StatusStatus) (first api.Status) {
	for n := range a.fleet.urls {
		s, err := one(a.fleet, n).Wait(ctx, id)
		if err != nil || s.Status != want {
			a.t.Errorf("%s: %s, %v; want %s", id, s.Status, err, want)
			return s
		}
		if n == 0 {
			first = s
		} else if s.FinishedAt != first.FinishedAt || string(s.Reply.Body) != string(first.Reply.Body) {
			a.t.Errorf("%s: two gateways differ: %+v, %+v", id, first, s)
		}
	}
	return first
}

// events are those of a request, numbered without a gap; the last is its outcome.
func (a *audit) events(ctx context.Context, id string) (all []client.Event) {
	for e, err := range one(a.fleet, 1).Events(ctx, id) {
		if err != nil && !errors.Is(err, context.Canceled) {
			a.t.Errorf("%s: events: %v", id, err)
		}
		if e.Kind == "progress" || e.Kind == "partial" || e.Kind == "outcome" {
			all = append(all, e)
		}
	}
	for i, e := range all {
		number := e.Event.Number
		if e.Kind == "outcome" {
			number = e.Status.Events
		}
		if number != i+1 || (e.Kind == "outcome") != (i == len(all)-1) {
			a.t.Errorf("%s: event %d of %d is %s %d", id, i, len(all), e.Kind, number)
		}
	}
	return all
}

// echoed wants the payload back.
func (a *audit) echoed(ctx context.Context, id, payload string) api.Status {
	s := a.ended(ctx, id, api.Succeeded)
	if reply, err := one(a.fleet, len(id)).Reply(ctx, id); err != nil || string(reply.Body) != payload {
		a.t.Errorf("%s: replied %q, %v; want %q", id, reply.Body, err, payload)
	}
	a.events(ctx, id)
	return s
}

// verifyStreamed wants all parts of the last attempt in order, after some of those
// before it.
func verifyStreamed(ctx context.Context, a *audit, id, payload string) {
	s := a.echoed(ctx, id, payload)
	var got, want []string
	for _, e := range a.events(ctx, id) {
		if e.Kind == "partial" {
			got = append(got, string(e.Event.Body))
		}
	}
	for n := range parts {
		want = append(want, fmt.Sprintf(`"%d.%d"`, s.Attempt, n))
	}
	if len(got) < parts || !slices.Equal(got[len(got)-parts:], want) {
		a.t.Errorf("%s: came in parts %v, want %v at the end", id, got, want)
	}
}

func verifyRetried(ctx context.Context, a *audit, id, payload string) {
	if s := a.echoed(ctx, id, payload); s.Attempt < 2 || len(s.Attempts) != s.Attempt-1 {
		a.t.Errorf("%s: attempt %d after %d", id, s.Attempt, len(s.Attempts))
	}
}

// verifyDead redrives it, once, however often that is asked for.
func verifyDead(ctx context.Context, a *audit, id, _ string) {
	a.ended(ctx, id, api.Failed)
	made, err := one(a.fleet, 0).Retry(ctx, id)
	if err != nil || made.RetryOf != id {
		a.t.Errorf("%s: redriven as %+v, %v", id, made, err)
		return
	}
	if twice, err := one(a.fleet, 1).Retry(ctx, id); err != nil || twice.CorrelationID != made.CorrelationID {
		a.t.Errorf("%s: redriven as %s and as %s, %v", id, made.CorrelationID, twice.CorrelationID, err)
	}
	a.ended(ctx, made.CorrelationID, api.Failed)
}

func verifyMinimal(ctx context.Context, a *audit, id, _ string) {
	if s := a.ended(ctx, id, api.Succeeded); s.Reply.Size != 0 || s.Reply.Body != nil {
		a.t.Errorf("%s: a reply was kept: %+v", id, s.Reply)
	}
}

func verifyDelayed(ctx context.Context, a *audit, id, payload string) {
	s := a.echoed(ctx, id, payload)
	if early := time.Time(s.StartedAt).Sub(time.Time(s.CreatedAt)); early < delay {
		a.t.Errorf("%s: began %v after it was accepted", id, early)
	}
}

func verifyOrdered(ctx context.Context, a *audit, id, payload string) {
	s := a.echoed(ctx, id, payload)
	a.mu.Lock()
	defer a.mu.Unlock()
	var n int
	fmt.Sscanf(payload, "payload %d", &n)
	a.order[fmt.Sprint(n%3)] = append(a.order[fmt.Sprint(n%3)], s)
}

// inOrder wants each request of a key to have begun after those before it ended.
func (a *audit) inOrder() {
	for key, all := range a.order {
		slices.SortFunc(all, func(x, y api.Status) int { return time.Time(x.StartedAt).Compare(time.Time(y.StartedAt)) })
		for i, s := range all[:max(0, len(all)-1)] {
			next := all[i+1]
			if time.Time(next.StartedAt).Before(time.Time(s.FinishedAt)) || time.Time(next.CreatedAt).Before(time.Time(s.CreatedAt)) {
				a.t.Errorf("key %s: %s was accepted at %s and began at %s, %s before it at %s and %s until %s", key,
					next.CorrelationID, next.CreatedAt, next.StartedAt, s.CorrelationID, s.CreatedAt, s.StartedAt, s.FinishedAt)
			}
		}
	}
}

func verifyScattered(ctx context.Context, a *audit, id, payload string) {
	s := a.ended(ctx, id, api.Succeeded)
	var set api.GatheredReplies
	if err := json.Unmarshal(s.Reply.Body, &set); err != nil || set.Succeeded != 3 || len(set.Replies) != 3 {
		a.t.Errorf("%s: gathered %s, %v", id, s.Reply.Body, err)
	}
	for _, r := range set.Replies {
		var text string
		if err := json.Unmarshal(r.Body, &text); err != nil || text != payload {
			a.t.Errorf("%s: %s replied %s; want %q", id, r.Service, r.Body, payload)
		}
	}
	if answers := a.events(ctx, id); len(answers) < 4 {
		a.t.Errorf("%s: %d events for three answers", id, len(answers))
	}
}

func verifyBatched(ctx context.Context, a *audit, id, payload string) {
	ids := strings.Fields(id)
	for n := range a.fleet.urls {
		b, err := one(a.fleet, n).WaitBatch(ctx, ids[0])
		if err != nil || !b.Complete || b.Accepted != items || b.Succeeded != items || b.Open != 0 {
			a.t.Errorf("batch %s: %+v, %v", ids[0], b, err)
		}
	}
	for _, item := range ids[1:] {
		a.echoed(ctx, item, payload)
	}
}
