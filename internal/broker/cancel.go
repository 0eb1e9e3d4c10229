package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	endTries = 2                      // a lost answer is asked for once more; the scripts make that harmless
	endPause = 100 * time.Millisecond // between them
)

var (
	cancelScript = newScript("cancel")
	deleteScript = newScript("delete")
)

// Cancel records the outcome canceled and returns the record. An unclaimed
// request is never seen by a worker; a worker that has it is told. ErrTerminal,
// with the record, where there is an outcome already; ErrGone, ErrUnavailable
// (nothing happened), ErrUnknownOutcome.
func (b *Broker) Cancel(ctx context.Context, id correlation.ID) (Record, error) {
	verdict, view, again, err := b.end(ctx, cancelScript, id, 0)
	if err != nil {
		return Record{}, err
	}
	r, err := parseView(id, view)
	if err == nil && verdict == "terminal" && (!again || r.Status != Canceled) {
		err = ErrTerminal
	}
	return r, err
}

// Delete forgets a request now, or one that succeeded as soon as it is no longer Young;
// an open one is canceled first. ErrGone, ErrUnavailable (nothing happened),
// ErrUnknownOutcome.
func (b *Broker) Delete(ctx context.Context, id correlation.ID) error {
	verdict, more, again, err := b.end(ctx, deleteScript, id, Young)
	if err == nil && verdict == "young" {
		if !loop.Rest(ctx, msec(texts([]any{more})[0])) {
			return fmt.Errorf("delete a request: %w: %w", ErrUnavailable, ctx.Err())
		}
		// It is not asked again whether it is young: Redis' clock may have stepped back.
		verdict, _, again, err = b.end(ctx, deleteScript, id, 0)
	}
	if err == nil && verdict == "gone" && !again {
		err = ErrGone
	}
	return err
}

// end runs one of the two scripts; young is for delete.lua. again says that an earlier
// try, whose answer was lost, may have done the work; view is what cancel.lua shows of
// the record.
func (b *Broker) end(ctx context.Context, s *script, id correlation.ID, young time.Duration) (verdict string, view any, again bool, err error) {
	if err := b.Ready(); err != nil {
		return "", nil, false, err
	}
	p := b.partitionOf(id)
	for try := range endTries {
		if try > 0 && !loop.Rest(ctx, endPause) {
			break
		}
		var raw any
		if raw, err = s.run(ctx, b.redis, p, []string{p.request(id)}, id.String(), InlineReply, young.Milliseconds()); err == nil {
			v := texts(raw)
			if v[0] == "gone" && s == cancelScript {
				return "", nil, again, ErrGone
			}
			if len(v) > 1 && v[1] != "" {
				b.count(parseReport([]string{v[1]}))
			}
			if len(v) > 2 {
				view = raw.([]any)[2]
			}
			return v[0], view, again, b.confirm(ctx, p)
		}
		if !unsent(err) {
			again = true
		}
	}
	if again {
		return "", nil, true, fmt.Errorf("end a request: %w: %w", ErrUnknownOutcome, err)
	}
	return "", nil, false, fault("end a request", err)
}
