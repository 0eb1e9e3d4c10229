package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

var batchScript = newScript("batch")

// Item is the place of a request in a batch.
type Item struct {
	Batch  correlation.ID
	Number int // from 0
}

// String is how the record has it, "" for none.
func (i *Item) String() string {
	if i == nil {
		return ""
	}
	return i.Batch.String() + " " + strconv.Itoa(i.Number)
}

// batchOwner signs IDs of batches, so that none passes for one of a request.
func batchOwner(tenant string) string { return "batch\x00" + tenant }

// VerifyBatch is Verify for the ID of a batch.
func (b *Broker) VerifyBatch(id correlation.ID, tenant string) error {
	return b.ring().Verify(id, batchOwner(tenant))
}

// OpenBatch makes the batch whose items are then submitted one by one, with their
// place in it; CloseBatch says when all are. With a key the same payload gives the
// same batch. ErrIdempotencyMismatch, ErrUnavailable.
func (b *Broker) OpenBatch(ctx context.Context, tenant, key string, payload []byte, items []Submission) (id correlation.ID, replayed bool, err error) {
	if err := b.Ready(); err != nil {
		return id, false, err
	}
	lasts := b.options.Defaults.Retention
	for _, s := range items {
		p := b.plan(s)
		lasts = max(lasts, p.Timeout+p.Retention)
	}
	lasts += batchSubmits
	home := partition(mathrand.IntN(b.Partitions()))
	binding, fingerprint := "", ""
	if key != "" {
		sum := sha256.Sum256([]byte(batchOwner(tenant) + "\x00" + key))
		binding = hex.EncodeToString(sum[:16])
		home = homeOf(binding, b.Partitions())
		sum = sha256.Sum256(payload)
		fingerprint = hex.EncodeToString(sum[:16])
	}
	id = b.ring().Mint(time.Now(), int(home), batchOwner(tenant))
	keys := []string{home.batch(id)}
	if key != "" {
		keys = append(keys, home.idempotency(binding))
	}
	raw, err := batchScript.run(ctx, b.redis.commands, home, keys, id.String(), len(items), lasts.Milliseconds(), fingerprint)
	if err != nil {
		return id, false, fault("open a batch", err)
	}
	v := texts(raw)
	if v[0] == "mismatch" {
		return id, false, ErrIdempotencyMismatch
	}
	if id, err = correlation.Parse(v[1]); err != nil {
		return id, false, fmt.Errorf("read the bound ID of a batch: %w", err)
	}
	return id, v[0] == "replayed", nil
}

// CloseBatch notes in which partitions the batch has its items. Until then it
// counts as open, and readers ask all partitions.
func (b *Broker) CloseBatch(ctx context.Context, id correlation.ID, items []correlation.ID) error {
	home := partitionOf(id)
	var in []string
	for _, item := range items {
		if p := partitionOf(item).tag(); !slices.Contains(in, p) {
			in = append(in, p)
		}
	}
	err := b.redis.commands.HSet(ctx, home.batch(id), "partitions", "+"+strings.Join(in, " ")).Err()
	return fault("close a batch", err)
}
