package broker

import (
	"context"
	"sync"
)

// taker is who delivers the callbacks that a settle hands over.
type taker struct {
	mu   sync.Mutex // guards the rest, and is held while take is called
	room func() int
	take func(Intent) // nil where nobody takes any
}

// TakeIntents has take called with callbacks that are owed by outcomes which this process
// settles, each with its record, so that nobody has to ask Redis for either: no more at
// once than room says, about. As those of ClaimIntents they are handed out again after
// ten seconds unless they were Delivered, Postponed or Kept. Neither function may wait for anything.
// None is taken any more once end has returned.
func (b *Broker) TakeIntents(room func() int, take func(Intent)) (end func()) {
	b.taker.mu.Lock()
	defer b.taker.mu.Unlock()
	b.taker.room, b.taker.take = room, take
	return func() {
		b.taker.mu.Lock()
		defer b.taker.mu.Unlock()
		b.taker.room, b.taker.take = nil, nil
	}
}

// takes is how many callbacks one settle may hand over. Several partitions may be settled
// at the same time.
func (b *Broker) takes() int {
	b.taker.mu.Lock()
	defer b.taker.mu.Unlock()
	if b.taker.take == nil {
		return 0
	}
	room := b.taker.room()
	return min(max(room, 0), max(1, room/b.Partitions()))
}

// takeOver gives the callback about r, which has its outcome, to who delivers it. Where
// nobody does by now, it is put back.
func (b *Broker) takeOver(ctx context.Context, p partition, r *plainReply) {
	record, err := parseView(r.of, r.view())
	if err != nil {
		b.log.Error("a callback that was handed over can't be read", "error", err)
	}
	i := Intent{Partition: p.number, Entry: "callback " + r.id + " succeeded 1 1", ID: r.of, Type: string(Succeeded), Number: 1, Attempt: 1, record: &record}
	if err == nil && b.taken(i) {
		return
	}
	i.Attempt-- // Postpone counts one up
	if err := b.Postpone(context.WithoutCancel(ctx), i, 0); err != nil {
		b.log.Debug("put a callback back", "error", err) // it is handed out again after its lease
	}
}

// taken tells whether somebody takes an intent.
func (b *Broker) taken(i Intent) bool {
	b.taker.mu.Lock()
	defer b.taker.mu.Unlock()
	if b.taker.take == nil {
		return false
	}
	b.taker.take(i)
	return true
}

// view is the record of r, which has its outcome, as view in outcome.lua shows it.
func (r *plainReply) view() []any {
	v := make([]any, viewFields)
	for i := range v {
		v[i] = ""
	}
	v[viewService], v[viewPlan], v[viewTenant] = r.service, r.plan, r.tenant
	v[viewStatus], v[viewAttempt], v[viewEntry] = string(Succeeded), "1", r.work
	v[viewStarted], v[viewWorker] = r.outcome.started.UnixMilli(), r.outcome.worker
	v[viewCallback], v[viewTrace], v[viewPolicy], v[viewTags] = r.url, r.trace, r.policy, r.tags
	v[viewFinished], v[viewReplyType], v[viewReplyStatus], v[viewReplyHeaders] = r.outcome.finished.UnixMilli(), r.rtype, r.rstatus, r.rheaders
	v[viewReplySize], v[viewReply] = int64(len(r.body)), r.body
	return v
}
