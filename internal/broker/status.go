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
	owed   bool // see a record that is kept only for a callback; not with attach
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
	_, err := detachScript.run(ctx, b.redis, p, []string{p.request(id)}, id.String(), b.waiter())
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
	place := make(map[readAsk]int, len(calls))
	asks := make([]readAsk, 0, len(calls))
	for _, c := range calls {
		if _, known := place[c.ask]; !known {
			place[c.ask] = len(asks)
			asks = append(asks, c.ask)
		}
	}
	answers := b.readAll(ctx, asks, InlineReply)
	for _, c := range calls {
		c.answer, c.err = answers[place[c.ask]].raw, fault("read a request", answers[place[c.ask]].err)
	}
}

// answered is what a script said to a readAsk; nil where the record is gone.
type answered struct {
	raw any
	err error
}

// reading is one script of a pipeline.
type reading struct {
	at   partition
	asks []int // of all
	args []any // of status.lua; nil where it is another
	cmd  *redis.Cmd
}

// readAll asks each question, in one pipeline, and once more where the answers before
// were large. inline is the largest reply body that comes with a record.
func (b *Broker) readAll(ctx context.Context, asks []readAsk, inline int) []answered {
	answers, rest := b.readMost(ctx, asks, inline)
	for len(rest) > 0 {
		again := make([]readAsk, len(rest))
		for i, ask := range rest {
			again[i] = asks[ask]
		}
		more, left := b.readMost(ctx, again, inline)
		for i, a := range more {
			answers[rest[i]] = a
		}
		for i, ask := range left {
			left[i] = rest[ask]
		}
		rest = left
	}
	return answers
}

// readMost is readAll but for the rest, whose places it returns.
func (b *Broker) readMost(ctx context.Context, asks []readAsk, inline int) (answers []answered, rest []int) {
	sent := b.sendAsks(ctx, asks, inline)
	if b.unknownScripts(ctx, commandsOf(sent)) {
		sent = b.sendAsks(ctx, asks, inline)
	}
	answers = make([]answered, len(asks))
	for _, r := range sent {
		raw, err := r.cmd.Result()
		if errors.Is(err, redis.Nil) {
			raw, err = nil, nil
		}
		list, _ := raw.([]any)
		for i, ask := range r.asks {
			switch a := &answers[ask]; {
			case err != nil || r.args == nil:
				a.raw, a.err = raw, err
			case len(list) == 0:
				a.err = fmt.Errorf("no answers for %d requests", len(r.asks))
			case i >= len(list):
				rest = append(rest, ask)
			default:
				if a.raw = list[i]; a.raw == nil {
					break
				}
				if text, broken := a.raw.(string); broken {
					a.raw, a.err = nil, scriptError(text)
				}
			}
		}
	}
	return answers, rest
}

// sendAsks has one script answer what is asked of a partition, but for events.
func (b *Broker) sendAsks(ctx context.Context, asks []readAsk, inline int) (sent []*reading) {
	pipe := b.redis.commands.Pipeline()
	homes := make(map[partition]*reading, 1)
	for i, ask := range asks {
		p := b.partitionOf(ask.id)
		if e := ask.events; e != (eventsAsk{}) {
			cmd := eventsScript.in(ctx, pipe, b.redis, p, []string{p.request(ask.id)}, e.args(ask.id)...)
			sent = append(sent, &reading{at: p, asks: []int{i}, cmd: cmd})
			continue
		}
		r := homes[p]
		if r == nil {
			r = &reading{at: p, args: append(make([]any, 0, 2+2*len(asks)), inline, "")}
			homes[p], sent = r, append(sent, r)
		}
		if ask.attach {
			r.args[1] = b.waiter()
		}
		r.asks = append(r.asks, i)
		how := flag(ask.attach)
		if ask.owed {
			how = 2
		}
		r.args = append(r.args, ask.id.String(), how)
	}
	for _, r := range sent {
		if r.args != nil {
			r.cmd = statusScript.in(ctx, pipe, b.redis, r.at, []string{r.at.request(asks[r.asks[0]].id)}, r.args...)
		}
	}
	_, _ = pipe.Exec(ctx) // each answer has its own error
	return sent
}

func commandsOf(sent []*reading) (all []*redis.Cmd) {
	for _, r := range sent {
		all = append(all, r.cmd)
	}
	return all
}
