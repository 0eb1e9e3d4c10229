package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	submitTries  = 3                      // re-sends of a submit whose answer was lost; its nonce makes them harmless
	submitPause  = 100 * time.Millisecond // between them
	submitBudget = commandTimeout + time.Second
)

// sendSubmits commits a batch. It re-sends what may not have arrived: the
// nonce makes that harmless.
func (b *Broker) sendSubmits(calls []*call[*submission, verdict]) {
	ctx, stop := context.WithTimeout(context.Background(), submitBudget)
	defer stop()
	todo := calls
	for try := range submitTries {
		if try > 0 && !loop.Rest(ctx, submitPause) {
			break
		}
		if todo = b.trySubmits(ctx, todo, try > 0); len(todo) == 0 {
			return
		}
	}
	for _, c := range todo {
		if c.ask.unknown {
			c.err = fmt.Errorf("submit: %w: %w", ErrUnknownOutcome, c.err)
		} else {
			c.err = fault("submit", c.err)
		}
	}
}

// trySubmits sends one pipeline and returns the calls that are still open. again says
// that an earlier one may have had its effect.
func (b *Broker) trySubmits(ctx context.Context, calls []*call[*submission, verdict], again bool) (open []*call[*submission, verdict]) {
	if b.redis.nodes == nil {
		return b.submitTo(ctx, b.redis.commands, calls, again)
	}
	homes := make([]partition, len(calls))
	for i, c := range calls {
		homes[i] = c.ask.at
	}
	groups, err := b.byMaster(ctx, homes)
	if err != nil {
		for _, c := range calls {
			c.err = err
		}
		return calls
	}
	for _, m := range groups { // but for a moment after a move there is one: they came by its lane
		var here []*call[*submission, verdict]
		for i, c := range calls {
			if slices.Contains(m.has, homes[i]) {
				here = append(here, c)
			}
		}
		open = append(open, b.submitTo(ctx, m, here, again)...)
	}
	return open
}

// submitTo sends one pipeline to one server. It goes by no client of a whole cluster,
// which would send it again by itself: what became of the first would not be known then.
func (b *Broker) submitTo(ctx context.Context, server redis.Cmdable, calls []*call[*submission, verdict], again bool) (open []*call[*submission, verdict]) {
	pipe := server.Pipeline()
	together := groupSubmits(calls)
	answers := make([]*redis.Cmd, len(together))
	for i, t := range together {
		p, keys, args := t.command()
		answers[i] = pipe.EvalSha(ctx, t.script.sha, b.redis.guarded(p, keys), args...)
	}
	end := b.seal(ctx, pipe, calls[0].ask.at, again)
	_, _ = pipe.Exec(ctx) // each answer has its own error
	broken := b.sealSubmits(end, calls)
	reload := false
	var left []*call[*submission, verdict]
	for i, t := range together {
		raw, err := answers[i].Result()
		reload = reload || isNoScript(err) || isNoScript(broken)
		b.misled(ctx, err)
		for _, c := range t.calls {
			c.err = err
		}
		if err == nil {
			t.read(raw)
		}
		for _, c := range t.calls {
			withheld := broken != nil && c.err == nil && stores(c.answer)
			if withheld {
				c.err, c.ask.unknown = broken, true
			}
			switch {
			case c.err == nil && c.answer == verdict{}:
				c.ask.left = true
				left = append(left, c)
			case c.err == nil:
			case withheld && final(broken):
				c.err = fmt.Errorf("submit: %w: %w", ErrUnknownOutcome, broken)
			case strings.HasPrefix(c.err.Error(), "OOM") && !c.ask.unknown:
				c.err = fault("submit", c.err)
			default:
				if stopped, ok := errors.AsType[scriptError](c.err); ok && stopped.unwritten() {
					b.keeper.soon.Store(true)
				}
				c.ask.unknown = c.ask.unknown || !unsent(c.err)
				open = append(open, c)
			}
		}
	}
	if reload {
		if err := b.load(ctx); err != nil {
			b.log.Debug("load scripts", "error", err)
		}
	}
	if len(left) > 0 {
		open = append(open, b.submitTo(ctx, server, left, again)...)
	}
	return open
}

// stores tells whether the answer is that the request is in Redis.
func stores(v verdict) bool { return v[0] == "accepted" || v[0] == "replayed" || v[0] == "item" }
