package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

var (
	statusScript = newScript("status")
	detachScript = newPlainScript("detach")
)

// readAsk is one read of a record on its way through the batch.
type readAsk struct {
	id     correlation.ID
	attach bool // register this process for wake-ups
	events eventsAsk
}

// Status reads a record. ErrGone, ErrUnavailable. Concurrent reads share a
// pipeline, and one read answers all who asked for the same ID before it left.
func (b *Broker) Status(ctx context.Context, id correlation.ID) (Record, error) {
	return b.read(ctx, readAsk{id: id})
}

// Attach is Status that registers this process for wake-ups about the request
// in the same step, so that no change can fall between the two.
func (b *Broker) Attach(ctx context.Context, id correlation.ID) (Record, error) {
	return b.read(ctx, readAsk{id: id, attach: true})
}

// Detach takes the registration of Attach back. Where it fails, a few wake-ups
// more reach nobody.
func (b *Broker) Detach(ctx context.Context, id correlation.ID) error {
	p := b.partitionOf(id)
	_, err := detachScript.run(ctx, b.redis, p, []string{p.request(id)}, id.String(), b.name)
	return fault("detach from a request", err)
}

func (b *Broker) read(ctx context.Context, ask readAsk) (Record, error) {
	raw, err := b.ask(ctx, ask)
	if err != nil {
		return Record{}, err
	}
	r, err := parseView(ask.id, raw)
	if err != nil {
		return Record{}, err
	}
	return r, b.shown(ctx, r, 0)
}

// ask has a question answered together with those that others have.
func (b *Broker) ask(ctx context.Context, ask readAsk) (any, error) {
	if err := b.Ready(); err != nil {
		return nil, err
	}
	raw, _, err := b.reads.do(ctx, ask, 200)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("read a request: %w: %w", ErrUnavailable, err)
	}
	return raw, err
}

// sendReads reads a batch in one pipeline, each distinct question once.
func (b *Broker) sendReads(calls []*call[readAsk, any]) {
	ctx, stop := context.WithTimeout(context.Background(), commandTimeout)
	defer stop()
	asked := make(map[readAsk]*redis.Cmd, len(calls))
	if b.sendStatus(ctx, calls, asked) { // Redis has forgotten the script
		if err := b.load(ctx); err == nil {
			clear(asked)
			b.sendStatus(ctx, calls, asked)
		}
	}
	for _, c := range calls {
		c.answer, c.err = asked[c.ask].Result()
		if errors.Is(c.err, redis.Nil) {
			c.answer, c.err = nil, nil
		}
		c.err = fault("read a request", c.err)
	}
}

// sendStatus asks every question once, in the order in which they came, and tells
// whether the script was unknown.
func (b *Broker) sendStatus(ctx context.Context, calls []*call[readAsk, any], asked map[readAsk]*redis.Cmd) (unknown bool) {
	pipe := b.redis.commands.Pipeline()
	for _, c := range calls {
		if asked[c.ask] != nil {
			continue
		}
		p, gateway := b.partitionOf(c.ask.id), ""
		if e := c.ask.events; e != (eventsAsk{}) {
			asked[c.ask] = eventsScript.in(ctx, pipe, b.redis, p, []string{p.request(c.ask.id)}, e.args(c.ask.id)...)
			continue
		}
		if c.ask.attach {
			gateway = b.name
		}
		asked[c.ask] = statusScript.in(ctx, pipe, b.redis, p, []string{p.request(c.ask.id)}, c.ask.id.String(), gateway, InlineReply)
	}
	_, _ = pipe.Exec(ctx) // each answer has its own error
	for _, cmd := range asked {
		unknown = unknown || isNoScript(cmd.Err())
	}
	return unknown
}
