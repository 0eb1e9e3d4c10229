package broker

import (
	"context"
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

// Inspect looks at the settings of Redis, as Run does every 30 s.
func Inspect(ctx context.Context, b *Broker) error { return b.inspect(ctx) }

// SettleGenerally has b settle all replies by way of apply.lua, which takes what
// settle.lua leaves.
func SettleGenerally(b *Broker) { b.noneIsPlain = true }

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
