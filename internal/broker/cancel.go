package broker

import (
	"context"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

var (
	cancelScript = newScript("cancel")
	deleteScript = newScript("delete")
)

// Cancel records the outcome canceled and returns the record. An unclaimed
// request is never seen by a worker; a worker that has it is told. ErrTerminal,
// with the record, where there is an outcome already; ErrGone, ErrUnavailable.
func (b *Broker) Cancel(ctx context.Context, id correlation.ID) (Record, error) {
	verdict, err := b.end(ctx, cancelScript, id)
	if err != nil {
		return Record{}, err
	}
	r, err := b.Status(ctx, id)
	if err == nil && verdict == "terminal" {
		err = ErrTerminal
	}
	return r, err
}

// Delete forgets a request now; an open one is canceled first. ErrGone,
// ErrUnavailable.
func (b *Broker) Delete(ctx context.Context, id correlation.ID) error {
	_, err := b.end(ctx, deleteScript, id)
	return err
}

func (b *Broker) end(ctx context.Context, s *script, id correlation.ID) (verdict string, err error) {
	if err := b.Ready(); err != nil {
		return "", err
	}
	p := partitionOf(id)
	raw, err := s.run(ctx, b.redis.commands, p, []string{p.request(id)}, id.String())
	if err != nil {
		return "", fault("end a request", err)
	}
	v := texts(raw)
	if v[0] == "gone" {
		return "", ErrGone
	}
	if len(v) > 1 && v[1] != "" {
		b.count(parseReport([]string{v[1]}))
	}
	return v[0], nil
}
