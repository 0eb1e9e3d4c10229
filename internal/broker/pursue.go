package broker

import (
	"context"
	"errors"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

const pursueBatch = 32 // dead letters that one script redrives

var (
	pursueScript = newScript("pursue", "redrive")
	spreadScript = newPlainScript("spread")
)

// Pursue goes on with the jobs of a partition that redrive dead letters: a handful
// of each. more says that there is more to do at once.
func (b *Broker) Pursue(ctx context.Context, p int) (more bool, err error) {
	part := b.part(p)
	jobs, err := b.redis.commands.ZRange(ctx, part.redrives(), 0, -1).Result()
	if err != nil {
		return false, fault("look for redrives", err)
	}
	if len(jobs) == 0 {
		return false, nil
	}
	if b.Admits() != nil || b.admitBytes(ctx, part, 0) != nil {
		return false, nil // new requests wait for better times; so do these
	}
	for _, job := range jobs {
		id, err := correlation.Parse(job)
		if err != nil {
			continue
		}
		again, err := b.pursue(ctx, part, id)
		if err != nil {
			return false, err
		}
		more = more || again
	}
	return more, nil
}

func (b *Broker) pursue(ctx context.Context, p partition, id correlation.ID) (more bool, err error) {
	tenant, err := b.redis.commands.HGet(ctx, p.redrive(id), "tenant").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return false, fault("read a redrive", err)
	}
	if tenant == "" {
		tenant = DefaultTenant
	}
	services := b.Services()
	args := []any{id.String(), len(services) + 1}
	for _, name := range append(services, "*") { // one that no gateway knows any more has the defaults
		s := b.service(name)
		args = append(args, name, b.mostQueued(s), s.Concurrency)
	}
	for range pursueBatch {
		args = append(args, b.mint(p, tenant).String(), newNonce())
	}
	raw, err := pursueScript.run(ctx, b.redis, p, []string{p.redrive(id)}, args...)
	if err != nil {
		if e := fault("redrive dead letters", err); !errors.Is(e, ErrMemory) {
			return false, e
		}
		return false, nil
	}
	v := texts(raw)
	if v[1] == "spread" {
		if err := b.spread(ctx, id, v); err != nil {
			return false, fault("tell the partitions of a redrive", err)
		}
	}
	return v[0] == "more", nil
}

// spread makes a job known to all partitions, or that it was stopped. v is what
// pursue.lua returned at home.
func (b *Broker) spread(ctx context.Context, id correlation.ID, v []string) error {
	if v[2] == string(RedriveCanceled) {
		return b.spreadStop(ctx, id)
	}
	f := RedriveFilter{DeadFilter: DeadFilter{Tenant: v[3], Service: v[4], Code: v[5]}, Status: Status(v[6])}
	limit, _ := strconv.Atoi(v[7])
	total, _ := strconv.Atoi(v[9])
	for _, p := range b.parts() {
		if f.Limit = limit - total; p == b.partitionOf(id) || f.Limit <= 0 {
			continue
		}
		n, err := b.beginRedrive(ctx, p, id, f, v[8], "")
		if err != nil {
			return err
		}
		total += n
	}
	return b.markSpread(ctx, id, v[2])
}

func (b *Broker) spreadStop(ctx context.Context, id correlation.ID) error {
	for _, p := range b.parts() {
		if p == b.partitionOf(id) {
			continue
		}
		if err := b.stopRedrive(ctx, p, id, ""); err != nil {
			return err
		}
	}
	return b.markSpread(ctx, id, string(RedriveCanceled))
}

func (b *Broker) markSpread(ctx context.Context, id correlation.ID, state string) error {
	home := b.partitionOf(id)
	_, err := spreadScript.run(ctx, b.redis, home, []string{home.redrive(id)}, id.String(), state)
	return err
}
