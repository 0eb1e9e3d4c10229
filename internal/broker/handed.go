package broker

import (
	"context"
	"sync"

	"github.com/coatcheck/coatcheck/internal/correlation"
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
// a minute unless they were Delivered or Postponed. Neither function may wait for anything.
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

// takeOver gives what a settle handed over to who delivers it. Where nobody does by now,
// it is put back.
func (b *Broker) takeOver(ctx context.Context, p partition, list []any) {
	for ; len(list) >= 2; list = list[2:] {
		name, _ := list[0].(string)
		id, err := correlation.Parse(name)
		if err != nil {
			b.log.Error("a callback that was handed over can't be read", "error", err)
			continue
		}
		r, err := parseView(id, list[1])
		i := Intent{Partition: p.number, Entry: "callback " + name + " succeeded 1 1", ID: id, Type: string(Succeeded), Number: 1, Attempt: 1, record: &r}
		if err == nil && b.taken(i) {
			continue
		}
		i.Attempt-- // Postpone counts one up
		if err := b.Postpone(context.WithoutCancel(ctx), i, 0); err != nil {
			b.log.Debug("put a callback back", "error", err) // it is handed out again after a minute
		}
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
