package broker

import (
	"context"
	"strconv"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

const (
	memoryShare = 0.8 // of maxmemory for new requests; the rest is for replies to accepted work
	// After each look at Redis' memory, a process takes in at most a 16th of
	// what was free before it looks again, so that many gateways in a burst stop
	// in time too; but a 400th of maxmemory at least, so that it need not look
	// for every request.
	memoryCredit    = 16
	memoryLeast     = 400
	requestOverhead = 2 << 10 // bytes that Redis needs for a request beside its body
)

// memory is what this process knows of Redis' memory.
type memory struct {
	limited atomic.Bool  // maxmemory is set
	full    atomic.Bool  // new requests are refused
	spent   atomic.Bool  // nothing fits, not even a sign of life of a worker
	credit  atomic.Int64 // bytes that may be taken in before the next look
	look    turn         // one look at a time
}

// memoryAt is that of the server that has a partition.
func (b *Broker) memoryAt(p partition) *memory { return b.memoryOf(b.server(p)) }

func (b *Broker) memoryOf(server string) *memory {
	if m, ok := b.memories.Load(server); ok {
		return m.(*memory)
	}
	m, _ := b.memories.LoadOrStore(server, &memory{look: newTurn()})
	return m.(*memory)
}

// admitBytes refuses a new request in a partition where Redis has to keep its room for
// replies: if it were full, accepted work could not end.
func (b *Broker) admitBytes(ctx context.Context, p partition, n int) error {
	m := b.memoryAt(p)
	if m.limited.Load() && !m.full.Load() {
		cost := int64(n + requestOverhead)
		if m.credit.Add(-cost) < 0 {
			if err := m.look.take(ctx); err != nil {
				return err
			}
			if m.credit.Load() < 0 { // nobody looked meanwhile
				if c, err := b.redis.at(ctx, p.due()); err == nil {
					b.checkMemory(ctx, c, m)
				}
				m.credit.Add(-cost)
			}
			m.look.give()
		}
	}
	if m.full.Load() {
		return ErrMemory
	}
	return nil
}

// Crowded tells whether new requests are refused for lack of memory, of a Redis Cluster
// those of one master. It asks nobody: Run looks every second.
func (b *Broker) Crowded() (crowded bool) {
	b.memories.Range(func(_, m any) bool {
		crowded = m.(*memory).full.Load()
		return !crowded
	})
	return crowded
}

// Full tells whether nothing fits into the Redis of a partition any more: no worker can
// be heard then, so none is silent. It asks nobody: Run looks every second.
func (b *Broker) Full(p int) bool { return b.memoryAt(b.part(p)).spent.Load() }

// checkMemories looks how full each server is.
func (b *Broker) checkMemories(ctx context.Context) {
	_ = b.eachMaster(ctx, func(ctx context.Context, s *master) error {
		b.checkMemory(ctx, s, b.memoryOf(s.name))
		return nil
	})
}

// checkMemory looks how full a server is.
func (b *Broker) checkMemory(ctx context.Context, c redis.Cmdable, m *memory) {
	info, err := c.Info(ctx, "memory").Result()
	if err != nil {
		return // the embedded one has no such section, and no limit
	}
	used, _ := strconv.ParseInt(infoField(info, "used_memory"), 10, 64)
	most, _ := strconv.ParseInt(infoField(info, "maxmemory"), 10, 64)
	apart, _ := strconv.ParseInt(infoField(info, "mem_not_counted_for_evict"), 10, 64)
	room := int64(memoryShare*float64(most)) - used
	m.spent.Store(most > 0 && used-apart > most)
	m.limited.Store(most > 0)
	m.credit.Store(max(room/memoryCredit, most/memoryLeast))
	full := most > 0 && room <= 0
	if full != m.full.Swap(full) {
		b.log.Warn("admission by memory of Redis changed", "refusing", full, "used", used, "maxmemory", most)
	}
}
