package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// place mints the correlation ID of a submission in its partition: where its
// key is at home, or any. It looks where the key may have been bound, or may
// still be in use, before partitions were added, and returns the request that
// the idempotency key was bound to if there is one.
func (b *Broker) place(ctx context.Context, s *submission) (r Record, found bool, err error) {
	home, olds, until, err := b.homes(ctx, s.home)
	if err != nil {
		return Record{}, false, err
	}
	s.until = until
	for _, old := range olds {
		if s.binding != "" {
			if r, found, err := b.bound(ctx, s, old); found || err != nil {
				if err == nil {
					err = b.confirm(ctx, old)
				}
				return r, found, err
			}
		}
		if inUse, err := b.inUse(ctx, s, old); err != nil {
			return Record{}, false, err
		} else if inUse {
			home = old
		}
	}
	s.id, s.at = b.mint(home, s.Tenant), home
	s.name = s.id.String()
	return Record{}, false, nil
}

// homes is where a key is at home, any partition for "", until when, zero for no
// end, and where it may have been before partitions were added, oldest first.
func (b *Broker) homes(ctx context.Context, key string) (home partition, olds []partition, until time.Time, err error) {
	if key == "" {
		return b.anyPartition(mathrand.IntN), nil, until, nil
	}
	if time.Since(b.shared.Load().read) > knownWithin {
		if err := b.configure(ctx); err != nil {
			return partition{}, nil, until, err
		}
	}
	d := b.shared.Load()
	partitions, until := d.keyed()
	home = b.homeOf(key, partitions)
	for _, f := range d.former {
		if old := b.homeOf(key, f.partitions); old != home && !slices.Contains(olds, old) {
			olds = append(olds, old)
		}
	}
	return home, olds, until, nil
}

// inUse tells whether requests are open in a partition where theirs is no longer
// the home of new ones: with the same ordering or concurrency key, or of a service
// with a limit of its own. Who was there first goes first, and one number counts.
func (b *Broker) inUse(ctx context.Context, s *submission, old partition) (bool, error) {
	var open int64
	var err error
	if gates := s.gates(old); len(gates) > 0 {
		open, err = b.redis.commands.Exists(ctx, gates...).Result()
	}
	for _, service := range s.limited() {
		if open == 0 && err == nil {
			open, err = b.redis.commands.XLen(ctx, old.queue(service)).Result()
		}
		if open == 0 && err == nil {
			open, err = b.redis.commands.Exists(ctx, old.waiting(service)).Result()
		}
	}
	return open > 0, fault("look for requests with the same key", err)
}

// limited are its services with a limit of their own.
func (s *submission) limited() (services []string) {
	if s.plan.Concurrency > 0 {
		services = append(services, s.Service)
	}
	for _, l := range s.legs {
		if l.plan.Concurrency > 0 {
			services = append(services, l.Service)
		}
	}
	return services
}

// gates are the keys of what it may have to wait for in a partition.
func (s *submission) gates(p partition) (keys []string) {
	add := func(service, policy string) {
		if gate := gateIn(policy); gate != "-" {
			keys = append(keys, p.gate(service, gate))
		}
	}
	add(s.Service, s.policy)
	for _, l := range s.legs {
		add(l.Service, l.policy)
	}
	return keys
}

// bound looks a key up in a partition where it is no longer at home.
func (b *Broker) bound(ctx context.Context, s *submission, old partition) (Record, bool, error) {
	if s.Batch != nil {
		id, err := b.redis.commands.HGet(ctx, old.batch(s.Batch.Batch), "i"+s.Batch.number()).Result()
		if err == nil {
			r, err := b.replay(ctx, id)
			if errors.Is(err, ErrGone) {
				r.ID, err = correlation.Parse(id)
			}
			return r, err == nil, err
		}
		if !errors.Is(err, redis.Nil) {
			return Record{}, false, fault("look up the item of a batch", err)
		}
	}
	bound, err := b.redis.commands.Get(ctx, old.idempotency(s.binding)).Result()
	if errors.Is(err, redis.Nil) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, fault("look up the idempotency key", err)
	}
	id, fingerprint, _ := strings.Cut(bound, " ")
	r, err := b.replay(ctx, id)
	switch {
	case errors.Is(err, ErrGone):
		return Record{}, false, nil
	case err == nil && fingerprint != s.fingerprint:
		return Record{}, false, ErrIdempotencyMismatch
	}
	return r, err == nil, err
}

// homeKey is what finds the partition of a submission, "" where any will do. A
// service with a limit of its own lives in one partition, so that one number
// counts for all of it.
func homeKey(s *Submission, plan *ServiceConfig) string {
	scope := func() string { return s.Tenant + "\x00" + s.Service + "\x00" }
	switch {
	case plan.Concurrency > 0:
		return "service\x00" + s.Service
	case s.OrderingKey != "":
		return scope() + "o\x00" + s.OrderingKey
	case s.ConcurrencyKey != "":
		return scope() + "c\x00" + s.ConcurrencyKey
	case s.IdempotencyKey != "":
		return scope() + s.IdempotencyKey
	}
	return ""
}

// homeOf is the partition in which a key is at home.
func (b *Broker) homeOf(key string, partitions int) partition {
	sum := sha256.Sum256([]byte(key))
	return b.part(int(binary.BigEndian.Uint64(sum[8:]) % uint64(partitions)))
}

// bindingOf is what an idempotency key is bound by: tenant, service, and the
// ordering or concurrency key, since they choose the partition.
func bindingOf(s Submission) string {
	scope := s.Tenant + "\x00" + s.Service + "\x00" + s.IdempotencyKey
	if s.OrderingKey != "" || s.ConcurrencyKey != "" {
		scope += "\x00" + s.OrderingKey + "\x00" + s.ConcurrencyKey
	}
	sum := sha256.Sum256([]byte(scope))
	return hex.EncodeToString(sum[:16])
}
