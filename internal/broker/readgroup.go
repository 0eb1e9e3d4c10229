package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/loop"
)

// In a Redis Cluster one command reads from one slot, so a blocked read sees what comes
// to one partition. Who reads many looks at all of them without waiting, a pipeline a
// master, and waits a little at one of them in between: the longer nothing came, the
// longer. Readers choose by chance, so with several of them most partitions have one
// that waits there.
const (
	aroundLeast = 2 * time.Millisecond
	aroundBusy  = 5 * time.Millisecond  // at most, while something came within busyFor
	aroundMost  = 50 * time.Millisecond // some 20 looks a second at each partition
	busyFor     = time.Second
)

// readGroup reads what a group was not given yet, up to each of every stream, waiting
// for the first up to block, at most 2 s; not at all below 0.
func (b *Broker) readGroup(ctx context.Context, group, consumer string, streams []string, each int, block time.Duration) ([]redis.XStream, error) {
	if block > 0 {
		block = min(max(block, time.Millisecond), longestBlock)
	}
	if b.redis.nodes == nil {
		ctx, stop := patience(ctx, block)
		defer stop()
		return nothing(b.redis.blocking.XReadGroup(ctx, groupArgs(group, consumer, streams, each, block)).Result())
	}
	homes := byTag(streams)
	for until, pause := time.Now().Add(block), aroundLeast; ; {
		found, err := b.readAround(ctx, group, consumer, homes, each)
		left := time.Until(until)
		if len(found) > 0 {
			b.found.Store(time.Now().UnixNano())
		}
		if len(found) > 0 || err != nil || left <= 0 || ctx.Err() != nil {
			return found, err
		}
		found, err = b.readOne(ctx, group, consumer, homes[rand.IntN(len(homes))], each, min(pause, left))
		if len(found) > 0 || lostGroup(err) {
			return found, err
		}
		most := aroundMost
		if time.Since(time.Unix(0, b.found.Load())) < busyFor {
			most = aroundBusy
		}
		pause = min(2*pause, most)
	}
}

// readOne waits in one partition.
func (b *Broker) readOne(ctx context.Context, group, consumer string, streams []string, each int, block time.Duration) ([]redis.XStream, error) {
	ctx, stop := patience(ctx, block)
	defer stop()
	begun := time.Now()
	found, err := nothing(b.redis.blocking.XReadGroup(ctx, groupArgs(group, consumer, streams, each, max(block, time.Millisecond))).Result())
	if err != nil { // its master is away, or its slot on the way: the others are looked at as often as ever
		loop.Rest(ctx, block-time.Since(begun))
	}
	return found, err
}

// readAround looks at all streams once. An error is one of the last partition that can't
// be read where none of them can; or a lost group.
func (b *Broker) readAround(ctx context.Context, group, consumer string, homes [][]string, each int) (found []redis.XStream, err error) {
	ctx, stop := patience(ctx, 0)
	defer stop()
	type node struct {
		client *redis.Client
		asks   []*redis.XStreamSliceCmd
	}
	var nodes []*node
	var failed error
	failures := 0
	pipes := map[*redis.Client]redis.Pipeliner{}
	cluster := b.redis.blocking.(*redis.ClusterClient)
	for _, streams := range homes {
		// Not the client of the whole cluster: it may send a pipeline again, and what
		// was handed over the first time would wait for the end of its lease.
		c, err := cluster.MasterForKey(ctx, streams[0])
		if err != nil {
			failed, failures = err, failures+1
			continue
		}
		i := slices.IndexFunc(nodes, func(n *node) bool { return n.client == c })
		if i < 0 {
			i, nodes, pipes[c] = len(nodes), append(nodes, &node{client: c}), c.Pipeline()
		}
		nodes[i].asks = append(nodes[i].asks, pipes[c].XReadGroup(ctx, groupArgs(group, consumer, streams, each, -1)))
	}
	var all sync.WaitGroup
	for _, n := range nodes {
		all.Go(func() { _, _ = pipes[n.client].Exec(ctx) }) // each answer has its own error
	}
	all.Wait()
	for _, n := range nodes {
		for _, ask := range n.asks {
			got, err := nothing(ask.Result())
			found = append(found, got...)
			if lostGroup(err) {
				failed, failures = err, len(homes)
			} else if err != nil {
				b.misled(ctx, err)
				if !lostGroup(failed) {
					failed = err
				}
				failures++
			}
		}
	}
	if len(found) > 0 || failures < len(homes) {
		return found, nil
	}
	return nil, failed
}

func groupArgs(group, consumer string, streams []string, each int, block time.Duration) *redis.XReadGroupArgs {
	args := make([]string, 0, 2*len(streams))
	args = append(args, streams...)
	for range streams {
		args = append(args, ">")
	}
	return &redis.XReadGroupArgs{Group: group, Consumer: consumer, Streams: args, Count: int64(each), Block: block}
}

// nothing has an answer without entries be none.
func nothing(found []redis.XStream, err error) ([]redis.XStream, error) {
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return found, err
}

// byTag groups streams by the partition that they are of.
func byTag(streams []string) (groups [][]string) {
	places := map[string]int{}
	for _, s := range streams {
		tag, _, _ := strings.Cut(s, "}")
		i, ok := places[tag]
		if !ok {
			i = len(groups)
			places[tag], groups = i, append(groups, nil)
		}
		groups[i] = append(groups[i], s)
	}
	return groups
}

// claimAround is Claim in a Redis Cluster.
func (b *Broker) claimAround(ctx context.Context, consumer string, services, streams []string, n int, block time.Duration) ([]Delivery, error) {
	if len(streams) <= n {
		return b.claim(ctx, consumer, services, streams, n/len(streams), block)
	}
	got, err := b.claimWithout(ctx, consumer, services, streams, n)
	if len(got) > 0 || err != nil || block < 0 {
		return got, err
	}
	return b.claim(ctx, consumer, services, streams[:n], 1, min(block, aroundMost))
}
