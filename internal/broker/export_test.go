package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// Refresh re-reads what the gateways share, as Run does.
func Refresh(ctx context.Context, b *Broker) error { return b.refresh(ctx) }

// EntryAt is the ID of a stream entry that Redis took then.
func EntryAt(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) + "-0" }

// SubmitGeneral is Submit by way of submit.lua, which takes what direct.lua leaves.
func SubmitGeneral(ctx context.Context, b *Broker, s Submission) (Record, bool, error) {
	sub, err := b.prepare(ctx, s)
	if err != nil {
		return Record{}, false, err
	}
	sub.left = true
	return b.commit(ctx, sub, len(s.Body))
}

// SubmitTogether is Submit of requests of one kind by one script, or by submit.lua. Of each
// there is what the script answered, with its ID.
func SubmitTogether(ctx context.Context, b *Broker, generally bool, all ...Submission) (ids []correlation.ID, answers [][]string, err error) {
	return submitTogether(ctx, b, all, func(sub, _ *submission) { sub.left = generally })
}

// SubmitTwins is SubmitTogether of two who were minted the same ID.
func SubmitTwins(ctx context.Context, b *Broker, s Submission) (answers [][]string, err error) {
	_, answers, err = submitTogether(ctx, b, []Submission{s, s}, func(sub, first *submission) { sub.id, sub.name = first.id, first.name })
	return answers, err
}

// submitTogether has change see each, and the first.
func submitTogether(ctx context.Context, b *Broker, all []Submission, change func(sub, first *submission)) (ids []correlation.ID, answers [][]string, err error) {
	var calls []*call[*submission, verdict]
	for _, s := range all {
		sub, err := b.prepare(ctx, s)
		if err != nil {
			return nil, nil, err
		}
		if _, _, err := b.place(ctx, sub); err != nil {
			return nil, nil, err
		}
		calls = append(calls, &call[*submission, verdict]{ask: sub})
		change(sub, calls[0].ask)
	}
	b.sendSubmits(calls)
	for _, c := range calls {
		if c.err != nil {
			return nil, nil, c.err
		}
		ids, answers = append(ids, c.ask.id), append(answers, c.answer[:])
	}
	return ids, answers, nil
}

// Inspect looks at the settings of Redis, as Run does every 30 s.
func Inspect(ctx context.Context, b *Broker) error { return b.inspect(ctx) }

// SettleGenerally has b settle all replies by settle.lua, which takes any.
func SettleGenerally(b *Broker) { b.noneIsPlain = true }

// Unfold makes a hash of a brief record, as a script does that is to change it.
func Unfold(ctx context.Context, b *Broker, id correlation.ID) error {
	source := needed([]string{"prelude", "record"}, "load(ARGV[2])\nreturn 1\n")
	return b.redis.commands.Eval(ctx, source, nil, b.part(id.Partition()).prefix(), id.String()).Err()
}

// DeliveredTogether is Delivered of several by one script.
func DeliveredTogether(b *Broker, intents ...Intent) error {
	calls := make([]*call[Intent, struct{}], len(intents))
	for i := range intents {
		calls[i] = &call[Intent, struct{}]{ask: intents[i]}
	}
	b.sendDelivered(calls)
	for _, c := range calls {
		if c.err != nil {
			return c.err
		}
	}
	return nil
}

// ReadTogether is Status of one request and Attach to others, by one script.
func ReadTogether(b *Broker, one correlation.ID, others ...correlation.ID) (errs []error) {
	calls := []*call[readAsk, any]{{ask: readAsk{id: one}}}
	for _, id := range others {
		calls = append(calls, &call[readAsk, any]{ask: readAsk{id: id, attach: true}})
	}
	b.sendReads(calls)
	for _, c := range calls {
		errs = append(errs, c.err)
	}
	return errs
}

// AllAsked is what a read of many brings, the bodies of their replies, and how many each
// script answered.
func AllAsked(ctx context.Context, b *Broker, ids []correlation.ID) (bodies []string, each []int, err error) {
	asks := make([]readAsk, len(ids))
	for i, id := range ids {
		asks[i] = readAsk{id: id}
	}
	for left := asks; len(left) > 0; {
		_, rest := b.readMost(ctx, left, InlineReply)
		each = append(each, len(left)-len(rest))
		left = left[:len(rest)]
	}
	for i, a := range b.readAll(ctx, asks, InlineReply) {
		r, wrong := parseView(ids[i], a.raw)
		if wrong = errors.Join(a.err, wrong); wrong != nil || r.ID != ids[i] || r.Reply == nil {
			return nil, each, fmt.Errorf("read %d of %d: %w, %+v", i, len(ids), wrong, r)
		}
		bodies = append(bodies, string(r.Reply.Body))
	}
	return bodies, each, nil
}

// Resent has a submit, of all legs where there are any, be sent once more after what
// comes in between, as where its answer was lost. It returns what the second one is told.
func Resent(ctx context.Context, b *Broker, s Submission, legs []Submission, left bool, between func(correlation.ID)) (string, error) {
	sub := &submission{Submission: s, nonce: newNonce(), scatter: &Scatter{Submission: s, Legs: legs, MinReplies: len(legs)}}
	err := error(nil)
	if len(legs) > 0 {
		sub.Service = AnyService
		err = b.addLegs(sub, legs)
	} else {
		sub, err = b.prepare(ctx, s)
	}
	if err != nil {
		return "", err
	}
	sub.left = left
	if _, _, err := b.place(ctx, sub); err != nil {
		return "", err
	}
	answer, _, err := b.submits.do(ctx, sub, 512)
	if err != nil || answer[0] != "accepted" {
		return "", fmt.Errorf("submit: %v, %w", answer, err)
	}
	between(sub.id)
	if answer, _, err = b.submits.do(ctx, sub, 512); err != nil {
		return "", err
	}
	return answer[0], nil
}

var NameOn = nameOn
