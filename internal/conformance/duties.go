package conformance

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

// duty is one thing that every worker owes.
type duty struct {
	name, means string
	owned       bool // it needs a worker that the run started
	do          func(*run, context.Context) error
}

// duties in the order in which they run: what may leave a worker busy or dead
// comes last.
var duties = []duty{
	{"reply", "the reply is what the worker sent, with its content type", false, (*run).reply},
	{"binary", "77 KB of any bytes come back as they are", false, (*run).binary},
	{"empty", "an empty body is a request, an empty reply a reply", false, (*run).empty},
	{"progress", "progress events come in order, before the outcome", false, (*run).progress},
	{"partial", "partial replies come in order, before the outcome", false, (*run).partial},
	{"failure", "a failure is final and says why", false, (*run).failure},
	{"retry", "another attempt is asked for, and made", false, (*run).retry},
	{"duplicate", "what another worker has begun is done all the same, once", false, (*run).duplicate},
	{"heartbeat", "a request that takes longer than its lease stays with its worker", false, (*run).heartbeat},
	{"cancel", "a canceled request takes no slot any more", false, (*run).cancel},
	{"kill", "what a worker had when it was killed is done by the next", true, (*run).kill},
	{"stall", "a worker that stood still beyond its lease does no harm, and goes on", true, (*run).stall},
	{"drain", "SIGTERM ends the worker: nothing is left half done, nothing more is taken", true, (*run).drain},
}

func (r *run) reply(ctx context.Context) error {
	return r.echo(ctx, []byte("hello from a conformance run"))
}

func (r *run) binary(ctx context.Context) error {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	return r.echo(ctx, bytes.Repeat(every, 300)) // more than a pipe holds, and than a status shows
}

func (r *run) empty(ctx context.Context) error { return r.echo(ctx, nil) }

// echo wants a body back.
func (r *run) echo(ctx context.Context, body []byte) error {
	id, err := r.hand(ctx, body)
	if err != nil {
		return err
	}
	s, reply, err := r.outcome(ctx, id, r.Patience)
	if err != nil {
		return err
	}
	switch {
	case s.Status != api.Succeeded || s.Attempt != 1:
		return wrong{"success at attempt 1", describe(s)}
	case !bytes.Equal(reply.Body, body):
		return wrong{fmt.Sprintf("the %d bytes of the request back", len(body)), difference(body, reply.Body)}
	case reply.ContentType != binary:
		return wrong{"the content type of the request, " + binary, strconv.Quote(reply.ContentType)}
	}
	return nil
}

func (r *run) progress(ctx context.Context) error {
	return r.events(ctx, "progress", []string{`{"step":1}`, `{"step":2}`, `{"step":3}`})
}

func (r *run) partial(ctx context.Context) error {
	return r.events(ctx, "partial", []string{"one", "two", "three"})
}

// events wants these of a kind, and then a success.
func (r *run) events(ctx context.Context, kind string, want []string) error {
	id, err := r.submit(ctx, question{Do: kind})
	if err != nil {
		return err
	}
	s, reply, err := r.outcome(ctx, id, r.Patience)
	if err != nil {
		return err
	}
	if unsupported(s, reply) {
		return notRun("the worker says that it has none (unsupported)")
	}
	if s.Status != api.Succeeded || s.Attempt != 1 {
		return wrong{"success at attempt 1", describe(s)}
	}
	var got []string
	for e, err := range r.client.Events(ctx, id) {
		if err != nil {
			return err
		}
		if e.Kind == kind {
			got = append(got, compact(e.Event))
		}
	}
	if !slices.Equal(got, want) {
		return wrong{fmt.Sprintf("the %s events %q", kind, want), fmt.Sprintf("%q", got)}
	}
	return nil
}

// compact is the body of an event without white space: programs space their JSON
// as they like, and end their lines or not.
func compact(e api.Event) string {
	text := string(e.Body)
	if unquoted, err := strconv.Unquote(text); err == nil { // text is a JSON string
		text = unquoted
	}
	return strings.Join(strings.Fields(text), "")
}

func (r *run) failure(ctx context.Context) error {
	reason := "told-to-fail-" + strconv.FormatInt(time.Now().UnixMilli(), 36)
	id, err := r.submit(ctx, question{Do: "fail", Reason: reason})
	if err != nil {
		return err
	}
	s, reply, err := r.outcome(ctx, id, r.Patience)
	if err != nil {
		return err
	}
	if s.Status != api.Failed || s.Attempt != 1 {
		return wrong{"failed at attempt 1", describe(s)}
	}
	if !strings.Contains(s.Error.Message+string(reply.Body), reason) {
		return wrong{fmt.Sprintf("%q in the error or the reply", reason), fmt.Sprintf("error %q, reply %s", s.Error.Message, shown(reply.Body))}
	}
	return nil
}

func (r *run) retry(ctx context.Context) error {
	id, err := r.submit(ctx, question{Do: "retry"})
	if err != nil {
		return err
	}
	s, err := r.succeeded(ctx, id, r.Patience+r.lease)
	if err != nil {
		return err
	}
	if s.Attempt != 2 || len(s.Attempts) != 1 || s.Attempts[0].Error.Code == lapsed {
		return wrong{"that the worker asks for a second attempt", describe(s)}
	}
	return nil
}

// duplicate has two workers at one request: this run takes it, gives it back,
// and replies all the same while the worker is at it.
func (r *run) duplicate(ctx context.Context) error {
	c, err := r.snatch(ctx)
	if err != nil {
		return err
	}
	if err := r.giveBack(ctx, c); err != nil {
		return err
	}
	for until := time.Now().Add(r.Patience); ; {
		s, err := r.client.Status(ctx, c.CorrelationID)
		if err != nil {
			return err
		}
		if s.Attempt > 1 && s.Status != api.Queued && s.Status != api.Scheduled {
			break
		}
		if time.Now().After(until) || !rest(ctx, glance) {
			return wrong{"that the worker takes the second attempt", describe(s)}
		}
	}
	if _, _, err := r.call(ctx, repliesTo(c)+"final", []byte("attempt 1")); err != nil { // refused or dropped: it is too late
		return err
	}
	s, err := r.succeeded(ctx, c.CorrelationID, r.Patience)
	if err == nil && s.Attempt != 2 {
		err = wrong{"the reply of the second attempt", describe(s)}
	}
	return err
}
