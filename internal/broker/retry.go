package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/loop"
)

var retryScript = newScript("retry", "redrive")

// Retry redrives a failed or timed-out request: it returns a new one that has its
// body, headers and options, and its plan from now on. A repeat returns the same
// new request, with replayed. The body moves, so the old request is no dead letter
// any more; it stays until its retention ends. Interceptors looked at the body when
// it was submitted.
//
// ErrNotDead, also of a scatter, which keeps no body; ErrGone where the request, its body or what was made of it is gone;
// ErrUnknownService, ErrQueueFull, ErrMemory, ErrUnavailable (all: nothing will
// run), ErrUnknownOutcome.
func (b *Broker) Retry(ctx context.Context, id correlation.ID) (r Record, replayed bool, err error) {
	old, err := b.Status(ctx, id)
	if err != nil {
		return Record{}, false, err
	}
	if old.Legs != nil || (old.Status != Failed && old.Status != TimedOut) {
		return old, false, ErrNotDead
	}
	if old.RetriedAs == "" {
		known, err := b.KnowsService(ctx, old.Service)
		if err != nil {
			return Record{}, false, err
		}
		if !known {
			return old, false, ErrUnknownService
		}
		if err := b.Admits(); err != nil {
			return old, false, err
		}
		if err := b.admits(ctx, b.partitionOf(id), 0); err != nil { // the body moves
			return old, false, err
		}
	}
	verdict, made, err := b.retry(ctx, old)
	if err != nil {
		return old, false, err
	}
	switch verdict {
	case "accepted", "replayed":
		if err := b.confirm(ctx, b.partitionOf(id)); err != nil {
			return old, false, err
		}
		if verdict == "accepted" {
			b.counters.took(old.Service)
		}
		r, err := b.replay(ctx, made)
		return r, verdict == "replayed", err
	case "full":
		return old, false, ErrQueueFull
	case "refused":
		return old, false, ErrNotDead
	case "taken":
		return old, false, fmt.Errorf("redrive a request: found no free ID: %w", ErrUnavailable)
	}
	return old, false, ErrGone
}

// retry runs the script. It asks once more where the answer was lost: the old
// record says then what the first try did.
func (b *Broker) retry(ctx context.Context, old Record) (verdict, made string, err error) {
	p := b.partitionOf(old.ID)
	id, nonce, unknown := b.mint(p, old.Tenant), newNonce(), false
	plan := b.service(old.Service)
	for try := range submitTries {
		if try > 0 && !loop.Rest(ctx, submitPause) {
			break
		}
		var raw any
		raw, err = retryScript.run(ctx, b.redis, p, []string{p.request(old.ID), p.request(id)},
			old.ID.String(), id.String(), nonce, b.mostQueued(plan), plan.Concurrency)
		if err != nil {
			unknown = unknown || !unsent(err)
			if e := fault("redrive a request", err); errors.Is(e, ErrMemory) && !unknown {
				return "", "", e
			}
			continue
		}
		v := texts(raw)
		if v[0] == "taken" { // a lottery win
			id, nonce = b.mint(p, old.Tenant), newNonce()
			continue
		}
		if v[0] == "full" && unknown { // an earlier try may still come, and find room
			return "", "", fmt.Errorf("redrive a request: %w: its queue was full the next time", ErrUnknownOutcome)
		}
		return v[0], append(v, "")[1], nil
	}
	switch {
	case err == nil:
		return "taken", "", nil
	case unknown:
		return "", "", fmt.Errorf("redrive a request: %w: %w", ErrUnknownOutcome, err)
	}
	return "", "", fault("redrive a request", err)
}

func (b *Broker) mint(p partition, tenant string) correlation.ID {
	return b.ring().Mint(time.Now(), p.number, tenant)
}
