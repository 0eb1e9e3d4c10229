package broker

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Limits of the listing, see List.
const (
	// maxListed is how many requests of one outcome are listed, of each tenant in
	// each partition: with 150 bytes each, five tenants on four partitions take
	// 120 MB at most. Between two rounds of Prune it may be more.
	maxListed  = 10_000
	pruneShare = 500 // looked at in one index each round, beside the oldest
)

var pruneScript = newPlainScript("prune")

// Walk is how far Prune came in the indexes of each tenant.
type Walk map[string][]any

// Prune takes out of the listing of a partition what is forgotten, and bounds
// it. It goes on where walk says and returns where it came to; nil begins.
func (b *Broker) Prune(ctx context.Context, p int, walk Walk) (Walk, error) {
	part := b.part(p)
	registered, err := b.redis.commands.ZRange(ctx, part.tenants(), 0, -1).Result()
	if err != nil {
		return walk, fault("list the tenants", err)
	}
	next := make(Walk, len(registered))
	for _, tenant := range registered {
		keys := []string{part.tenants()}
		for _, status := range listings {
			keys = append(keys, part.listing(status, tenant))
		}
		from := walk[tenant]
		if from == nil {
			from = make([]any, len(listings))
			for i := range from {
				from[i] = 0
			}
		}
		raw, err := pruneScript.run(ctx, b.redis, part, keys, append([]any{tenant, maxListed, pruneShare}, from...)...)
		if err != nil {
			return walk, fault("prune the listing", err)
		}
		next[tenant], _ = raw.([]any)
	}
	return next, nil
}

// unknownScripts makes forgotten scripts known again, and tells that the pipeline
// must be sent once more.
func (b *Broker) unknownScripts(ctx context.Context, answers []*redis.Cmd) bool {
	for _, a := range answers {
		if err := a.Err(); err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT") {
			return b.load(ctx) == nil
		}
	}
	return false
}
