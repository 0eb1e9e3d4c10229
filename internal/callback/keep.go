package callback

import (
	"context"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/loop"
)

// kept are the deliveries under way: what takes long is kept, so that nobody else is given
// it, and what a gateway had that is no more is given to others soon.
type kept struct {
	mu    sync.Mutex // guards the rest
	since map[place]time.Time
}

// place is where an intent is.
type place struct {
	partition int
	entry     string
}

// add notes that a delivery begins; done, that it is over.
func (k *kept) add(i broker.Intent) (done func()) {
	at := place{i.Partition, i.Entry}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.since[at] = time.Now()
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.since, at)
	}
}

// long are those that began before an instant.
func (k *kept) long(before time.Time) (all []broker.Intent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for at, since := range k.since {
		if since.Before(before) {
			all = append(all, broker.Intent{Partition: at.partition, Entry: at.entry})
		}
	}
	return all
}

// keep keeps what takes long until ctx ends: by then all is put back.
func (d *Deliverer) keep(ctx context.Context) {
	for loop.Rest(ctx, broker.KeepIntentsEvery) {
		for _, i := range d.kept.long(time.Now().Add(-broker.KeepIntentsEvery)) {
			if _, err := d.broker.Keep(ctx, i); err != nil {
				d.log.Debug("keep a callback", "error", err) // the next round may; else it is told twice
			}
		}
	}
}
