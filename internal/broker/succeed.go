package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var succeedScript = newScript("succeed")

// settlePlain settles those of replies that are plain. left is how many are not.
func (b *Broker) settlePlain(ctx context.Context, p partition, replies []redis.XMessage) (facts []Fact, left int, err error) {
	plain, err := b.plainAmong(ctx, p, replies)
	if err != nil || len(plain) == 0 {
		return nil, len(replies), err
	}
	raw, err := succeedScript.run(ctx, b.redis, p, []string{p.replies()}, plainArgs(plain)...)
	if err != nil {
		b.mayHaveWoken(err)
		return nil, len(replies), err
	}
	lines := strings.Split(text(raw), "\n")
	if len(lines) != 1+2*len(plain) {
		return nil, len(replies), fmt.Errorf("the script answered %d lines about %d replies", len(lines), len(plain))
	}
	now := number(lines[0])
	ended := plain[:0]
	for i, r := range plain {
		started, worker := number(lines[1+2*i]), lines[2+2*i]
		if started > 0 {
			r.outcome = succeeded(r, now, started, worker)
			ended = append(ended, r)
		}
	}
	b.tellHere(ended)
	for _, r := range ended {
		facts = append(facts, r.fact())
	}
	b.count(facts)
	for _, r := range ended {
		if r.owes == owesHand {
			b.takeOver(ctx, p, r)
		}
	}
	return facts, len(replies) - len(ended), nil
}

// plainArgs are what succeed.lua takes of plain replies.
func plainArgs(replies []*plainReply) []any {
	var kinds []plainKind
	each := make([]any, 0, 2+10*len(replies))
	for at := 0; at < len(replies); {
		n, service := 1, replies[at].service
		for at+n < len(replies) && replies[at+n].service == service {
			n++
		}
		each = append(each, service, n)
		for _, r := range replies[at : at+n] {
			kind := slices.Index(kinds, r.plainKind)
			if kind < 0 {
				kind, kinds = len(kinds), append(kinds, r.plainKind)
			}
			each = append(each, kind+1, r.id, r.work, r.entry, r.created, r.record, r.firstLine(), r.left, r.idem, r.body)
		}
		at += n
	}
	args := make([]any, 0, 2+11*len(kinds)+len(each))
	args = append(args, intentLease.Milliseconds(), len(kinds))
	for _, k := range kinds {
		args = append(args, k.tenant, k.timeout, k.start, k.run, k.retention, k.rtype, k.rstatus, k.rheaders, k.owes, k.waiters, flag(k.due))
	}
	return append(args, each...)
}

// firstLine is the length of the first line of the record, "" where that is all of it.
func (r *plainReply) firstLine() any {
	if r.first == len(r.record) {
		return ""
	}
	return r.first
}

// succeeded is the outcome of the request that r is the reply to.
func succeeded(r *plainReply, now, started int64, worker string) *Outcome {
	return &Outcome{
		status: Succeeded, attempt: 1, queued: entryTime(r.work), started: time.UnixMilli(started).UTC(), worker: validText(worker),
		ending: ending{
			finished: time.UnixMilli(now).UTC(), retention: msec(r.retention),
			rtype: r.rtype, rstatus: r.rstatus, headers: decodeHeaders([]byte(r.rheaders)), size: len(r.body), reply: r.body,
		},
	}
}

// fact is what the outcome is to the log and the metrics.
func (r *plainReply) fact() Fact {
	return Fact{
		Kind: "outcome", ID: r.id, Service: r.service, Status: Succeeded, Reason: "-", Attempt: 1,
		Total: r.outcome.finished.Sub(millis(r.created)), RunTime: r.outcome.finished.Sub(r.outcome.started),
	}
}

// tellHere wakes who waits for them in this process.
func (b *Broker) tellHere(replies []*plainReply) {
	h := b.hearing.Load()
	if h == nil {
		return
	}
	var wakes []Wake
	for _, r := range replies {
		if !r.here {
			continue
		}
		w := Wake{ID: r.of}
		if r.told && b.isTold() && len(r.body) <= InlineReply {
			w.Outcome = r.outcome
		}
		wakes = append(wakes, w)
	}
	if len(wakes) > 0 {
		h.woken(wakes)
	}
}
