package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// place mints the correlation ID of a submission in its partition: where its
// idempotency key is at home, or any. It looks where the key may have been
// bound before partitions were added, and returns that request if there is one.
func (b *Broker) place(ctx context.Context, s *submission) (r Record, found bool, err error) {
	home := partition(mathrand.IntN(b.Partitions()))
	if s.binding != "" {
		if time.Since(b.shared.Load().read) > knownWithin {
			if err := b.configure(ctx); err != nil {
				return Record{}, false, err
			}
		}
		d := b.shared.Load()
		var partitions int
		partitions, s.until = d.keyed()
		home = homeOf(s.Submission, partitions)
		asked := map[partition]bool{home: true}
		for _, f := range d.former {
			old := homeOf(s.Submission, f.partitions)
			if asked[old] {
				continue
			}
			asked[old] = true
			if r, found, err := b.bound(ctx, s, old); found || err != nil {
				return r, found, err
			}
		}
	}
	s.id = b.ring().Mint(time.Now(), int(home), s.Tenant)
	return Record{}, false, nil
}

// bound looks a key up in a partition where it is no longer at home.
func (b *Broker) bound(ctx context.Context, s *submission, old partition) (Record, bool, error) {
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

// homeOf is the partition in which the key of a submission is bound.
func homeOf(s Submission, partitions int) partition {
	sum := sha256.Sum256([]byte(s.Tenant + "\x00" + s.Service + "\x00" + s.IdempotencyKey))
	return partition(binary.BigEndian.Uint64(sum[8:]) % uint64(partitions))
}

func bindingOf(s Submission) string {
	sum := sha256.Sum256([]byte(s.Tenant + "\x00" + s.Service + "\x00" + s.IdempotencyKey))
	return hex.EncodeToString(sum[:16])
}
