package ledger_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

const (
	items = 4 // of a batch
	delay = 300 * time.Millisecond
)

// kind is one way to ask, and what must have become of it. submit may be tried again
// with the same key, anywhere; what it returns names what was accepted.
type kind struct {
	name   string
	submit func(ctx context.Context, c *client.Client, n int, r client.Request) (id string, err error)
	verify func(ctx context.Context, a *audit, id, payload string)
	same   bool   // many are submitted with the same payload
	body   string // the payload of all; "" for one of their own
}

var (
	plain     = kind{name: "plain", submit: to(mixed, nil), verify: verifyPlain}
	long      = kind{name: "slow", submit: to(slow, nil), verify: verifyPlain}
	streamed  = kind{name: "streamed", submit: to(talk, nil), verify: verifyStreamed}
	snaked    = kind{name: "snaked", submit: to(snake, nil), verify: verifySnaked, body: `{"do":"partial"}`}
	sharing   = kind{name: "shared", submit: to(same, nil), verify: verifyShared, same: true}
	retried   = kind{name: "retried", submit: to(again, nil), verify: verifyRetried}
	dead      = kind{name: "dead", submit: to(broken, nil), verify: verifyDead}
	minimal   = kind{name: "minimal", submit: to(mixed, func(r *client.Request, _ int) { r.Minimal = true }), verify: verifyMinimal}
	delayed   = kind{name: "delayed", submit: to(mixed, func(r *client.Request, _ int) { r.Delay = delay }), verify: verifyDelayed}
	ordered   = kind{name: "ordered", submit: to(mixed, func(r *client.Request, n int) { r.OrderingKey = keyOf(n) }), verify: verifyOrdered}
	first     = kind{name: "high", submit: to(mixed, func(r *client.Request, _ int) { r.Priority = "high" }), verify: verifyPlain}
	scattered = kind{name: "scattered", submit: scatter, verify: verifyScattered}
	batched   = kind{name: "batched", submit: batch, verify: verifyBatched}
)

// mix is what the requests are, in turn.
var mix = []kind{
	plain, long, streamed, sharing, scattered, long, minimal, batched, snaked,
	sharing, long, ordered, delayed, retried, dead, ordered, first, snaked,
}

// keyOf is one of few ordering keys.
func keyOf(n int) string { return fmt.Sprint("key-", n%7) }

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
	s, err := c.Scatter(ctx, []string{mixed, slow, again}, client.Scatter{Request: r})
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
		all[i] = api.BatchItem{Service: mixed, Encoding: api.BatchItemEncodingText, ContentType: r.ContentType, Body: body, CallbackURL: r.CallbackURL}
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

// turn is when a request of an ordering key was at its worker.
type turn struct {
	id                     string
	created, began, finish time.Time
}

// echoed wants the payload back, in at least so many attempts.
func (a *audit) echoed(ctx context.Context, id, payload string, attempts int) api.Status {
	s := a.ended(ctx, id, api.Succeeded)
	if reply, err := a.site.client(len(id)).Reply(ctx, id); err != nil || string(reply.Body) != payload {
		a.t.Errorf("%s: replied %q, %v; want %q", id, reply.Body, err, payload)
	}
	if s.Attempt > attempts {
		a.again.Add(1)
	}
	return s
}

func verifyPlain(ctx context.Context, a *audit, id, payload string) { a.echoed(ctx, id, payload, 1) }

// verifyShared does not count attempts: they are those of all who share the run.
func verifyShared(ctx context.Context, a *audit, id, payload string) { a.echoed(ctx, id, payload, 20) }

// verifyStreamed wants all parts of the last attempt in order, after some of those
// before it.
func verifyStreamed(ctx context.Context, a *audit, id, payload string) {
	s := a.echoed(ctx, id, payload, 1)
	var want []string
	for n := range parts {
		want = append(want, fmt.Sprintf(`"%d.%d"`, s.Attempt, n))
	}
	a.inParts(ctx, id, want)
}

// verifySnaked wants what the worker in Python says.
func verifySnaked(ctx context.Context, a *audit, id, _ string) {
	s := a.ended(ctx, id, api.Succeeded)
	if reply, err := a.site.client(len(id)).Reply(ctx, id); err != nil || string(reply.Body) != fmt.Sprint("attempt ", s.Attempt) {
		a.t.Errorf("%s: replied %q, %v in attempt %d", id, reply.Body, err, s.Attempt)
	}
	if s.Attempt > 1 {
		a.again.Add(1)
	}
	a.inParts(ctx, id, []string{`"one"`, `"two"`, `"three"`})
}

// inParts wants the partial replies to end with these.
func (a *audit) inParts(ctx context.Context, id string, want []string) {
	var got []string
	for _, e := range a.events(ctx, id) {
		if e.Kind == "partial" {
			got = append(got, string(e.Event.Body))
		}
	}
	if len(got) < parts || !slices.Equal(got[len(got)-parts:], want) {
		a.t.Errorf("%s: came in parts %v, want %v at the end", id, got, want)
	}
}

func verifyRetried(ctx context.Context, a *audit, id, payload string) {
	if s := a.echoed(ctx, id, payload, 2); s.Attempt < 2 || len(s.Attempts) != s.Attempt-1 {
		a.t.Errorf("%s: attempt %d after %d", id, s.Attempt, len(s.Attempts))
	}
}

// verifyDead redrives it, once, however often that is asked for.
func verifyDead(ctx context.Context, a *audit, id, _ string) {
	a.ended(ctx, id, api.Failed)
	made, err := a.site.client(0).Retry(ctx, id)
	if err != nil || made.RetryOf != id {
		a.t.Errorf("%s: redriven as %+v, %v", id, made, err)
		return
	}
	a.told(made.CorrelationID)
	if twice, err := a.site.client(1).Retry(ctx, id); err != nil || twice.CorrelationID != made.CorrelationID {
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
	s := a.echoed(ctx, id, payload, 1)
	if early := time.Time(s.StartedAt).Sub(time.Time(s.CreatedAt)); early < delay {
		a.t.Errorf("%s: began %v after it was accepted", id, early)
	}
}

func verifyOrdered(ctx context.Context, a *audit, id, payload string) {
	s := a.echoed(ctx, id, payload, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.order == nil {
		a.order = map[string][]turn{}
	}
	key := keyOf(a.known[id].n)
	a.order[key] = append(a.order[key], turn{id, time.Time(s.CreatedAt), time.Time(s.StartedAt), time.Time(s.FinishedAt)})
}

// inOrder wants each request of a key to have begun after those before it ended.
func (a *audit) inOrder() {
	for key, all := range a.order {
		slices.SortFunc(all, func(x, y turn) int { return x.began.Compare(y.began) })
		for i, s := range all[:max(0, len(all)-1)] {
			if next := all[i+1]; next.began.Before(s.finish) || next.created.Before(s.created) {
				a.t.Errorf("key %s: %+v goes before %+v", key, s, next)
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
	for n := range a.site.clients {
		b, err := a.site.client(n).WaitBatch(ctx, ids[0])
		if err != nil || !b.Complete || b.Accepted != items || b.Succeeded != items || b.Open != 0 {
			a.t.Errorf("batch %s: %+v, %v", ids[0], b, err)
		}
	}
	for _, item := range ids[1:] {
		a.echoed(ctx, item, payload, 1)
	}
}
