package broker

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// counters count since this process started.
type counters struct {
	dataLost atomic.Int64
	accepted sync.Map                   // by service: *atomic.Int64
	facts    atomic.Pointer[func(Fact)] // who else wants to hear
}

// took counts an accepted request. It allocates for the first one of a service alone.
func (c *counters) took(service string) {
	n, known := c.accepted.Load(service)
	if !known {
		n, _ = c.accepted.LoadOrStore(service, new(atomic.Int64))
	}
	n.(*atomic.Int64).Add(1)
}

// Observe has seen called with every fact that this process' own calls brought
// to light: outcomes, events, dropped replies. seen must be fast. Call it
// before Run.
func (b *Broker) Observe(seen func(Fact)) { b.counters.facts.Store(&seen) }

func (b *Broker) count(facts []Fact) {
	seen := b.counters.facts.Load()
	debug := b.log.Enabled(context.Background(), slog.LevelDebug)
	for _, f := range facts {
		if debug && f.Kind == "outcome" {
			b.log.Debug("request has its outcome", "correlation_id", f.ID, "service", f.Service,
				"status", f.Status, "reason", f.Reason, "attempt", f.Attempt, "total", f.Total)
		}
		if seen != nil {
			(*seen)(f)
		}
	}
}

// Stats is a snapshot for the metrics.
type Stats struct {
	Accepted map[string]int64 // requests by service; of a scatter AnyService. Those of a job that redrives many no gateway counts

	DataLost int64 // times that Redis came back without its data
	Unmet    int64 // answers withheld because replicas did not confirm in time
	Pool     Pool
}

// Pool is the state of the connections to Redis.
type Pool struct {
	Total, Idle, Stale uint32
	Hits, Misses       uint32
	Timeouts           uint32
}

// Stats asks nobody.
func (b *Broker) Stats() Stats {
	var p Pool
	for _, s := range []*poolStats{b.redis.commands.PoolStats(), b.redis.blocking.PoolStats(), b.redis.pubsub.PoolStats()} {
		p.Total, p.Idle, p.Stale = p.Total+s.TotalConns, p.Idle+s.IdleConns, p.Stale+s.StaleConns
		p.Hits, p.Misses, p.Timeouts = p.Hits+s.Hits, p.Misses+s.Misses, p.Timeouts+s.Timeouts
	}
	accepted := map[string]int64{}
	for _, service := range b.Services() {
		accepted[service] = 0
	}
	b.counters.accepted.Range(func(service, n any) bool {
		accepted[service.(string)] = n.(*atomic.Int64).Load()
		return true
	})
	return Stats{Accepted: accepted, DataLost: b.counters.dataLost.Load(), Unmet: b.keeper.unmet.Load(), Pool: p}
}

// Table counts the correlation table by status, over all partitions: open ones
// exactly, outcomes to five minutes.
func (b *Broker) Table(ctx context.Context) (map[Status]int, error) {
	table := map[Status]int{}
	for p := range b.Partitions() {
		kept, err := b.Tidy(ctx, p)
		if err != nil {
			return nil, err
		}
		for status, n := range kept {
			table[status] += n
		}
	}
	for _, service := range b.Services() {
		q, err := b.Queue(ctx, service)
		if err != nil {
			return nil, err
		}
		table[Running] += q.Running
		table[Scheduled] += q.Scheduled
		table[Queued] += q.Depth - q.Scheduled
	}
	return table, nil
}

// Upkeep is what tells whether upkeep keeps up, over all partitions.
type Upkeep struct {
	Stuck int // decisions overdue by more than 10 s; must be 0
	Owed  int // callbacks on the stream: without those that wait for another try, and those that were handed over
	Aside int // replies that nobody understood, kept for a day to be looked at
}

// stuckAfter is by how much a decision may be late before it counts as stuck.
const stuckAfter = 10 * time.Second

// Upkeep reads four counts a partition. ErrUnavailable.
func (b *Broker) Upkeep(ctx context.Context) (u Upkeep, err error) {
	now, err := b.Now(ctx)
	if err != nil {
		return Upkeep{}, err
	}
	late := strconv.FormatInt(now.Add(-stuckAfter).UnixMilli(), 10)
	pipe := b.redis.commands.Pipeline()
	for _, p := range b.parts() {
		pipe.ZCount(ctx, p.due(), "-inf", late)
		pipe.ZCount(ctx, p.clocks(), "-inf", late)
		pipe.XLen(ctx, p.callbacks())
		pipe.LLen(ctx, p.aside())
	}
	answers, err := pipe.Exec(ctx)
	if err != nil {
		return Upkeep{}, fault("count what upkeep has to do", err)
	}
	for i, into := range answers {
		n := int(into.(*intCmd).Val())
		switch i % 4 {
		case 0, 1:
			u.Stuck += n
		case 2:
			u.Owed += n
		default:
			u.Aside += n
		}
	}
	return u, nil
}

// Now is Redis' clock.
func (b *Broker) Now(ctx context.Context) (time.Time, error) { return b.clockOf(ctx, configKey) }

// clockOf is the clock of the server that has a key: those of a Redis Cluster differ.
func (b *Broker) clockOf(ctx context.Context, key string) (time.Time, error) {
	server, err := b.redis.at(ctx, key)
	if err != nil {
		return time.Time{}, fault("ask Redis for the time", err)
	}
	now, err := server.Time(ctx).Result()
	return now, fault("ask Redis for the time", err)
}

// clockIn has a pipeline read Redis' clock too, for who calls what it returns once that
// was executed. A command without a key has no place in the pipeline of a whole cluster.
func (b *Broker) clockIn(ctx context.Context, pipe redis.Pipeliner) func() (time.Time, error) {
	if b.redis.nodes != nil {
		return func() (time.Time, error) { return b.Now(ctx) }
	}
	return pipe.Time(ctx).Result
}

func cutEntry(id string) (ms, next string, ok bool) {
	ms, seq, ok := strings.Cut(id, "-")
	if !ok {
		return "", "", false
	}
	return ms, strconv.FormatInt(number(seq)+1, 10), true
}
