package broker

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// What a gateway reads for workers that ask it is on two names, one after the
// other. moves.lua and settle.lua know the first.
const (
	holder   = "pull:" // + gateway: work that it holds, and that is as good as unclaimed
	handedTo = "http:" // + gateway: work that a worker got from it
)

var entrustScript = newPlainScript("entrust")

// Reserve is Claim for a worker that this process has yet to find. To everybody else
// what it holds is still queued. Follow it by Entrust or Unclaim: without either
// the lease ends.
func (b *Broker) Reserve(ctx context.Context, service string, n int, block time.Duration) ([]Delivery, error) {
	return b.Claim(ctx, holder+b.name, []string{service}, n, block)
}

// Entrust makes what Reserve returned a worker's, at the last moment before it gets
// it. handed leaves out what has ended meanwhile, and what is of a service that was
// paused: that waits again. ErrUnavailable: all of it may be handed over or not, and
// Unclaim puts back what is not.
func (b *Broker) Entrust(ctx context.Context, held []Delivery) (handed []Delivery, err error) {
	answers, unknown := b.sendEntrust(ctx, held)
	if unknown {
		if err := b.load(ctx); err != nil {
			return nil, fault("load the scripts", err)
		}
		answers, _ = b.sendEntrust(ctx, held)
	}
	var paused []Delivery
	for i, d := range held {
		took, err := answers[i].Int()
		if err != nil {
			return nil, fault("hand work over", err)
		}
		switch took {
		case 1:
			handed = append(handed, d)
		case 2:
			paused = append(paused, d)
		}
	}
	for _, d := range paused {
		if err := b.Unclaim(ctx, d); err != nil { // its lease will lapse; the others are handed over already
			b.log.Debug("put work of a paused service back", "error", err)
		}
	}
	return handed, nil
}

// sendEntrust asks for all in one pipeline, and tells whether the script was
// unknown to Redis.
func (b *Broker) sendEntrust(ctx context.Context, held []Delivery) (answers []*redis.Cmd, unknown bool) {
	pipe := b.redis.commands.Pipeline()
	for _, d := range held {
		p, name := b.homeOfWork(d)
		answers = append(answers, entrustScript.in(ctx, pipe, b.redis, p, []string{p.record(name)}, name, d.Token, d.Entry, handedTo+b.name))
	}
	_, _ = pipe.Exec(ctx) // each answer has its own error
	for _, a := range answers {
		unknown = unknown || isNoScript(a.Err())
	}
	return answers, unknown
}
