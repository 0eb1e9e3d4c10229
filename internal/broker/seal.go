package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

var fenceScript = newPlainScript("fence")

// seal is the end of a pipeline: what must have been answered before anybody is told
// of what that pipeline wrote. A pipeline goes to one server, whose replicas confirm.
type seal struct {
	fence *redis.Cmd // nil where none is needed
	acks  *redis.Cmd // nil where no replicas are waited for
	want  int
}

// seal puts the end on a pipeline that has commands of partition p. fence says that
// they may have written nothing themselves, since an earlier try did.
func (b *Broker) seal(ctx context.Context, pipe redis.Pipeliner, p partition, fence bool) seal {
	d := b.Kept()
	var s seal
	// Newer servers let WAIT wait for what its own connection wrote last, which may be
	// older than what it read; so a fence stands before each.
	if d.Mode == Replicated || d.Mode == Fsync && fence {
		s.fence = fenceScript.in(ctx, pipe, b.redis, p, []string{p.fence()})
	}
	if d.Mode == Replicated {
		s.acks, s.want = pipe.Do(ctx, "WAIT", d.Replicas, d.Wait.Milliseconds()), d.Replicas
	}
	return s
}

// tooFew says that not all replicas confirmed in time: what was written may go with
// its master. There is no point in sending it again.
type tooFew struct{ got, want int }

func (t tooFew) Error() string {
	return fmt.Sprintf("%d of %d replicas have confirmed it", t.got, t.want)
}

// broken is why what was written does not count as kept; nil: it does. tooFew, or of
// the connection.
func (s seal) broken() error {
	if s.fence != nil && s.fence.Err() != nil {
		return s.fence.Err()
	}
	if s.acks == nil {
		return nil
	}
	got, err := s.acks.Int()
	if err == nil && got < s.want {
		err = tooFew{got, s.want}
	}
	return err
}

// sealed notes what a seal that is not broken covers.
func (b *Broker) sealed(s seal, partitions ...partition) {
	if s.acks == nil {
		return
	}
	at := number(texts([]any{s.fence.Val()})[0])
	for _, p := range partitions {
		if b.keeper.shown[p.number].Load() < at {
			b.keeper.shown[p.number].Store(at)
		}
	}
}

// sealSubmits is why the requests of a pipeline do not count as accepted, though they
// are in Redis; nil: they do. Also where the server turned out to be another than
// was looked at, see connected.
func (b *Broker) sealSubmits(s seal, calls []*call[*submission, verdict]) error {
	err := s.broken()
	if err == nil {
		err = b.wrongAt(calls[0].ask.at) // all are of one server
	}
	if err != nil {
		if _, few := errors.AsType[tooFew](err); few {
			b.missed(len(calls))
		}
		return err
	}
	for _, c := range calls {
		b.sealed(s, c.ask.at)
	}
	return nil
}

// final tells whether sending it again can't help.
func final(broken error) bool {
	_, few := errors.AsType[tooFew](broken)
	return few || errors.Is(broken, ErrUndurable)
}

// missed counts answers that are withheld since replicas did not confirm, and has the
// servers looked at.
func (b *Broker) missed(n int) {
	b.keeper.unmet.Add(int64(n))
	b.keeper.soon.Store(true)
}

// confirm returns once all that was ever written in p is kept as is configured. A call
// that repeats an earlier one writes nothing itself, and must not promise what that
// one could not. ErrUnknownOutcome.
func (b *Broker) confirm(ctx context.Context, p partition) error {
	if err := b.reach(ctx, p); err != nil {
		return fmt.Errorf("confirm what was written: %w: %w", ErrUnknownOutcome, err)
	}
	return nil
}

// shown returns once a record may be shown, with so many of its events: a failover
// must not take back what somebody saw. What ended before the last confirmation is
// shown at once, also while replicas are missing. ErrUnavailable.
func (b *Broker) shown(ctx context.Context, r Record, events int) error {
	if b.Kept().Mode != Replicated {
		return nil
	}
	until := r.Finished
	for _, l := range r.Legs {
		if l.Finished.After(until) {
			until = l.Finished
		}
	}
	open := events > 0 && !r.Status.Terminal() // events have the time at which they were sent, not that of their write
	return b.shownUntil(ctx, b.partitionOf(r.ID), until, open)
}

func (b *Broker) shownUntil(ctx context.Context, p partition, until time.Time, open bool) error {
	if !open && (until.IsZero() || until.UnixMilli() < b.keeper.shown[p.number].Load()) {
		return nil
	}
	if err := b.reach(ctx, p); err != nil {
		return fmt.Errorf("wait for the replicas before it is shown: %w: %w", ErrUnavailable, err)
	}
	return nil
}

func (b *Broker) reach(ctx context.Context, p partition) error {
	if m := b.Kept().Mode; m != Fsync && m != Replicated {
		return nil
	}
	_, _, err := b.fences.do(ctx, p, 100)
	return err
}

// sendFences has all that want to be sure share one fence.
func (b *Broker) sendFences(calls []*call[partition, struct{}]) {
	ctx, stop := context.WithTimeout(context.Background(), commandTimeout)
	defer stop()
	asked := make([]partition, len(calls))
	for i, c := range calls {
		asked[i] = c.ask
	}
	groups, err := b.byMaster(ctx, asked)
	if err != nil {
		for _, c := range calls {
			c.err = err
		}
		return
	}
	for _, m := range groups {
		err := b.sendFence(ctx, m)
		if isNoScript(err) {
			if err = b.load(ctx); err == nil {
				err = b.sendFence(ctx, m)
			}
		}
		if _, few := errors.AsType[tooFew](err); few {
			b.missed(len(calls))
		}
		for _, c := range calls {
			if slices.Contains(m.has, c.ask) {
				c.err = err
			}
		}
	}
}

// sendFence has what is in partitions of one server confirmed. In a Redis Cluster each
// partition has a fence of its own: one that has moved is not covered by another.
func (b *Broker) sendFence(ctx context.Context, m *master) error {
	pipe := m.Pipeline()
	var all []*redis.Cmd
	if b.redis.nodes != nil {
		for _, p := range m.has[1:] {
			all = append(all, fenceScript.in(ctx, pipe, b.redis, p, []string{p.fence()}))
		}
	}
	s := b.seal(ctx, pipe, m.has[0], true)
	_, _ = pipe.Exec(ctx) // each answer has its own error
	err := s.broken()
	for _, fence := range all {
		err = cmp.Or(err, fence.Err())
	}
	if err != nil {
		b.misled(ctx, err)
		return err
	}
	b.sealed(s, m.has...)
	return nil
}

// looker is what looks at each new connection; nil where nothing is demanded.
func (b *Broker) looker() func(context.Context, redis.Cmdable, string) {
	if b.options.Durability.Mode == Unpromised {
		return nil
	}
	return b.connected
}
