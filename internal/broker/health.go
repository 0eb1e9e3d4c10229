package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	healthInterval = 500 * time.Millisecond
	healthTimeout  = time.Second
)

// Ready is nil while Redis answers, else an ErrUnavailable; of a Redis Cluster while
// one of the masters does. It asks nobody: Run looks every 500 ms.
func (b *Broker) Ready() error {
	if err := b.health.Load(); err != nil {
		return *err
	}
	return nil
}

// readyAt is Ready of the server that has a partition.
func (b *Broker) readyAt(p partition) error {
	if b.redis.nodes == nil {
		return b.Ready()
	}
	if err, down := b.redis.nodes.down.Load(b.redis.name(p.due())); down {
		return err.(error)
	}
	return nil
}

// common is Ready of the servers that have what belongs to no partition.
func (b *Broker) common() error {
	if b.redis.nodes == nil {
		return nil
	}
	for _, key := range commonKeys {
		if err, down := b.redis.nodes.down.Load(b.redis.name(key)); down {
			return err.(error)
		}
	}
	return nil
}

func (b *Broker) checkHealth(ctx context.Context) {
	all, err := b.masters(ctx)
	if err != nil {
		b.ails(ctx, err)
		return
	}
	answers := make([]error, len(all))
	var asked sync.WaitGroup
	for i, m := range all[1:] {
		asked.Go(func() { answers[i+1] = b.ping(ctx, m) })
	}
	answers[0] = b.ping(ctx, all[0]) // here: where there is one, nothing is handed over
	asked.Wait()
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	down := 0
	for i, m := range all {
		if answers[i] != nil {
			down++
		}
		b.foundNode(m, answers[i])
	}
	if down > 0 && b.redis.nodes != nil {
		b.redis.nodes.reload(ctx) // its replica may have taken over
	}
	if down == len(all) {
		b.ails(ctx, answers[0])
	} else if b.health.Swap(nil) != nil {
		b.log.Info("Redis answers again", "after", time.Since(b.away).Round(time.Millisecond).String())
	}
}

func (b *Broker) ping(ctx context.Context, m *master) error {
	ctx, stop := context.WithTimeout(ctx, healthTimeout)
	defer stop()
	if b.redis.nodes != nil {
		ctx = context.WithValue(ctx, past{}, true)
	}
	return m.Ping(ctx).Err()
}

// ails makes it known that nobody answers.
func (b *Broker) ails(ctx context.Context, err error) {
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	down := fmt.Errorf("ask Redis whether it is there: %w: %w", ErrUnavailable, err)
	if b.health.Swap(&down) == nil {
		b.away = time.Now()
		b.log.Error("Redis does not answer; new requests are refused until it does", "error", err)
	}
}

// foundNode makes it known how one of several masters is.
func (b *Broker) foundNode(m *master, err error) {
	if b.redis.nodes == nil {
		return
	}
	if err == nil {
		if _, was := b.redis.nodes.down.LoadAndDelete(m.name); was {
			b.log.Info("a master of the Redis Cluster answers again", "node", m.name)
		}
		return
	}
	down := fmt.Errorf("ask a master of the Redis Cluster whether it is there: %w: %w", ErrUnavailable, err)
	if _, was := b.redis.nodes.down.Swap(m.name, down); !was {
		b.log.Error("a master of the Redis Cluster does not answer; requests of its partitions wait until it does, or its replica has taken over",
			"node", m.name, "partitions", len(m.has), "error", err)
	}
}
