package broker

import (
	"context"
	"slices"
)

// Drain tells a worker to finish what it has and claim no more, until its
// process ends. One that obeys hears of it at once, or when it announces itself
// the next time; any other finds it in cc:draining, where it looks. The worker
// returned says whether it obeys. ErrUnknownWorker, ErrUnavailable.
func (b *Broker) Drain(ctx context.Context, name string) (Worker, error) {
	alive, err := b.workers(ctx, b.Services(), true)
	if err != nil {
		return Worker{}, err
	}
	i := slices.IndexFunc(alive, func(w Worker) bool { return w.Name == name })
	if i < 0 {
		return Worker{}, ErrUnknownWorker
	}
	now, err := b.Now(ctx)
	if err != nil {
		return Worker{}, err
	}
	server, err := b.redis.at(ctx, drainingKey)
	if err != nil {
		return Worker{}, fault("tell a worker to drain", err)
	}
	pipe := server.Pipeline() // to publish goes to any node, but this one is there
	pipe.HSet(ctx, drainingKey, name, now.UnixMilli())
	pipe.Publish(ctx, drainChannel+name, "drain") // a hint: the field is what counts
	if _, err := pipe.Exec(ctx); err != nil {
		return Worker{}, fault("tell a worker to drain", err)
	}
	if _, err := b.announced(ctx, true); err != nil {
		return Worker{}, err
	}
	alive[i].Draining = true
	return alive[i], nil
}
