package broker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/loop"
)

var (
	batchScript      = newPlainScript("batch")
	closeBatchScript = newPlainScript("closebatch")
)

// Item is the place of a request in a batch.
type Item struct {
	Batch  correlation.ID
	Number int       // from 0
	Ends   time.Time // until when the batch is remembered at least, as OpenBatch says
}

func (i *Item) number() string { return strconv.Itoa(i.Number) }

// Opened is a batch whose items are to be submitted.
type Opened struct {
	ID       correlation.ID
	Ends     time.Time // for its items
	Replayed bool      // its idempotency key had been used with the same payload
}

// batchOwner signs IDs of batches, so that none passes for one of a request.
func batchOwner(tenant string) string { return "batch\x00" + tenant }

// VerifyBatch is Verify for the ID of a batch.
func (b *Broker) VerifyBatch(id correlation.ID, tenant string) error {
	return b.ring().Verify(id, batchOwner(tenant))
}

// OpenBatch makes the batch whose items are then submitted one by one, with their
// place in it; CloseBatch says when all are. With a key the same payload gives the
// same batch, for as long as one of its requests may be known. had is how many items
// the call had, and items are those of them that can be submitted.
// ErrIdempotencyMismatch, ErrUnavailable, ErrUndurable, ErrUnknownOutcome.
func (b *Broker) OpenBatch(ctx context.Context, tenant, key string, payload []byte, had int, items []Submission) (Opened, error) {
	if err := b.Admits(); err != nil {
		return Opened{}, err
	}
	var lasts time.Duration
	for _, s := range items {
		p := b.plan(&s)
		lasts = max(lasts, p.Timeout+p.Retention)
	}
	lasts = cmp.Or(lasts, b.options.Defaults.Retention) + batchSubmits
	binding, fingerprint := "", ""
	if key != "" {
		// Three NULs: no binding of a request has as many, see bindingOf.
		sum := sha256.Sum256([]byte(batchOwner(tenant) + "\x00\x00" + key))
		binding = hex.EncodeToString(sum[:16])
		sum = sha256.Sum256(payload)
		fingerprint = hex.EncodeToString(sum[:16])
	}
	for range submitPlaces {
		home, olds, until, err := b.homes(ctx, binding)
		if err != nil {
			return Opened{}, err
		}
		for _, old := range olds {
			if o, found, err := b.boundBatch(ctx, old, binding, fingerprint); found || err != nil {
				if err == nil {
					err = b.confirm(ctx, old)
				}
				return o, err
			}
		}
		id := b.mint(home, batchOwner(tenant))
		keys, moves := []string{home.batch(id)}, int64(0)
		if key != "" {
			keys = append(keys, home.idempotency(binding))
		}
		if !until.IsZero() {
			moves = until.UnixMilli()
		}
		raw, err := batchScript.run(ctx, b.redis, home, keys, id.String(), had, lasts.Milliseconds(), fingerprint, moves, batchSubmits.Milliseconds())
		if err != nil {
			return Opened{}, fault("open a batch", err)
		}
		v := texts(raw)
		switch v[0] {
		case "mismatch":
			return Opened{}, ErrIdempotencyMismatch
		case "moved":
			loop.Rest(ctx, raiseMargin/4)
			continue
		}
		if id, err = correlation.Parse(v[1]); err != nil {
			return Opened{}, fmt.Errorf("read the bound ID of a batch: %w", err)
		}
		return Opened{id, millis(v[2]), v[0] == "replayed"}, b.confirm(ctx, home)
	}
	return Opened{}, fmt.Errorf("open a batch: found no place in %d tries: %w", submitPlaces, ErrUnavailable)
}

// boundBatch looks a key up in a partition where it is no longer at home.
func (b *Broker) boundBatch(ctx context.Context, old partition, binding, fingerprint string) (o Opened, found bool, err error) {
	bound, err := b.redis.commands.Get(ctx, old.idempotency(binding)).Result()
	if err == nil {
		text, print, _ := strings.Cut(bound, " ")
		if print != fingerprint {
			return o, false, ErrIdempotencyMismatch
		}
		if o.ID, err = correlation.Parse(text); err != nil {
			return o, false, fmt.Errorf("read the bound ID of a batch: %w", err)
		}
		var ends string
		if ends, err = b.redis.commands.HGet(ctx, old.batch(o.ID), "ends").Result(); err == nil {
			o.Ends, o.Replayed = millis(ends), true
			return o, true, nil
		}
	}
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	return o, false, fault("look up the idempotency key of a batch", err)
}

// CloseBatch notes in which partitions the batch has its items. Until then it
// counts as open, and readers ask all partitions.
func (b *Broker) CloseBatch(ctx context.Context, id correlation.ID, items []correlation.ID) error {
	home := b.partitionOf(id)
	var in []string
	for _, item := range items {
		if p := strconv.Itoa(item.Partition()); !slices.Contains(in, p) {
			in = append(in, p)
		}
	}
	_, err := closeBatchScript.run(ctx, b.redis, home, []string{home.batch(id)}, strings.Join(in, " "))
	return fault("close a batch", err)
}
