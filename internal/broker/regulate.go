package broker

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

var regulateScript = newScript("regulate")

// Regulate has the stream of a service hold what it may, in one partition: it
// sets the limit, takes back what is above, and releases what there is room for.
// more says that there is more to move. ErrUnavailable.
func (b *Broker) Regulate(ctx context.Context, p int, service string) (more bool, err error) {
	return b.regulate(ctx, partition(p), service, "")
}

func (b *Broker) regulate(ctx context.Context, p partition, service, change string) (more bool, err error) {
	raw, err := regulateScript.run(ctx, b.redis.commands, p, []string{p.queue(service)},
		service, change, b.service(service).Concurrency, b.slots(ctx, service))
	if err != nil {
		return false, fault("regulate a queue", err)
	}
	return texts(raw)[1] == "1", nil
}

// slots is how many requests the live workers of a service take at once, in each
// partition; 0 where none announced any, or it can't be told.
func (b *Broker) slots(ctx context.Context, service string) int {
	all, err := b.Slots(ctx, service)
	if err != nil {
		return 0
	}
	return (all + b.Partitions() - 1) / b.Partitions()
}

// Regulated lists the services of a partition that have a limit, or are to have
// one: the others need no Regulate. ErrUnavailable.
func (b *Broker) Regulated(ctx context.Context, p int) ([]string, error) {
	fields, err := b.redis.commands.HKeys(ctx, partition(p).limits()).Result()
	if err != nil {
		return nil, fault("look for limits", err)
	}
	services := map[string]bool{}
	for _, f := range fields {
		_, name, flag := strings.Cut(f, ":")
		if !flag {
			name = f
		}
		services[name] = true
	}
	for name := range b.shared.Load().services {
		if b.service(name).Concurrency > 0 {
			services[name] = true
		}
	}
	return slices.Sorted(maps.Keys(services)), nil
}

// Pause has requests of a service accepted and not dispatched, until Resume.
// Once it returned, no worker is given another; those that have one go on.
// Pausing twice does no harm. ErrUnknownService, ErrUnavailable.
func (b *Broker) Pause(ctx context.Context, service string) error {
	return b.setPaused(ctx, service, true)
}

// Resume takes Pause back. Resuming what is not paused does no harm.
func (b *Broker) Resume(ctx context.Context, service string) error {
	return b.setPaused(ctx, service, false)
}

func (b *Broker) setPaused(ctx context.Context, service string, paused bool) error {
	if known, err := b.KnowsService(ctx, service); err != nil || !known {
		if err == nil {
			err = ErrUnknownService
		}
		return err
	}
	now, err := b.Now(ctx)
	if err != nil {
		return err
	}
	change := "resume"
	if paused {
		change = "pause"
		err = b.redis.commands.HSetNX(ctx, pausedKey, service, now.UnixMilli()).Err()
	} else {
		err = b.redis.commands.HDel(ctx, pausedKey, service).Err()
	}
	if err != nil {
		return fault("pause or resume a service", err)
	}
	for p := range partition(b.Partitions()) {
		more, err := b.regulate(ctx, p, service, change)
		for ; err == nil && more && paused; more, err = b.regulate(ctx, p, service, "") {
		} // what a resume releases, the stewards go on with
		if err != nil {
			return err
		}
	}
	return b.refreshPaused(ctx, false)
}

// Paused is since when a service is paused; zero where it is not. It is at most
// a second old.
func (b *Broker) Paused(service string) time.Time { return b.shared.Load().paused[service] }

// refreshPaused reads which services are paused, and puts it back where Redis
// lost it or a partition has not heard of it.
func (b *Broker) refreshPaused(ctx context.Context, again bool) error {
	known, err := b.redis.commands.HGetAll(ctx, pausedKey).Result()
	if err != nil {
		return fault("read which services are paused", err)
	}
	now := b.shared.Load()
	next := *now
	next.paused = map[string]time.Time{}
	for service, since := range known {
		next.paused[service] = millis(since)
	}
	if again {
		for service, since := range now.paused {
			next.paused[service] = since
			if err := b.redis.commands.HSetNX(ctx, pausedKey, service, since.UnixMilli()).Err(); err != nil {
				return fault("put back a pause", err)
			}
			for p := range partition(b.Partitions()) {
				if _, err := b.regulate(ctx, p, service, "pause"); err != nil {
					return err
				}
			}
		}
	}
	b.shared.CompareAndSwap(now, &next)
	return nil
}
