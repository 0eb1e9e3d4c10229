package broker

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

const (
	sampleAge     = time.Second // how old an estimate may be
	rateMemory    = 0.3         // weight of the newest second in a rate
	attemptWindow = time.Minute // over which attempts are counted
	maxRetryAfter = 60          // seconds

	pausedRetryAfter = 10 * time.Second // nobody knows when a pause ends
)

// Queue is a sample, at most a second old, of one service over all partitions.
type Queue struct {
	Depth     int           // queued and scheduled
	Running   int           // claimed
	Scheduled int           // part of Depth: waits for an instant
	Gated     int           // part of Depth: waits for others with its key
	InLine    int           // part of Depth: waits for its turn
	OldestAge time.Duration // of the oldest entry nobody claimed; 0 for none
	PerSecond float64       // recent claims a second; 0 if unknown
	Pace      float64       // claims a second while there was a line; 0 if there was none
	Finished  float64       // outcomes of claimed requests a second; 0 if unknown
	Failed    float64       // outcomes failed a second; 0 if unknown
	RunTime   time.Duration // recent mean from claim to outcome; 0 if unknown
	Attempts  Attempts
}

// Attempts counts what was tried over the last minute, or for as long as this
// process has looked.
type Attempts struct {
	Window  time.Duration // 0: nothing is known yet
	Started int           // claims, of first attempts and of others
	Retried int           // further attempts called for
}

// sampler keeps the last sample of each service.
type sampler struct {
	mu       sync.Mutex // guards services
	services map[string]*sample
}

type sample struct {
	mu     sync.Mutex // guards what it found, which is replaced as a whole
	at     time.Time
	queue  Queue
	shards map[partition]shard
	holds  map[string]int // entries held, by consumer

	look      turn // one at a time; guards the rest, and alone writes what is above
	totals    totals
	past      []pastTotals // at most one a second; the first is a minute old, if there is one
	firstSeen bool
}

// totals are what was ever counted, over all partitions.
type totals struct{ started, finished, busy, retried, failed int64 } // busy in ms

type pastTotals struct {
	totals
	at time.Time
}

// shard is a sample of one partition.
type shard struct {
	claimed   int64 // entries ever claimed
	unclaimed int   // entries on the stream
}

func (s *sampler) init() { s.services = map[string]*sample{} }

func (s *sampler) of(service string) *sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.services[service]
	if found == nil {
		found = &sample{look: newTurn()}
		s.services[service] = found
	}
	return found
}

// Queue samples a service that Services lists. Between two looks a second
// apart it costs nothing.
func (b *Broker) Queue(ctx context.Context, service string) (Queue, error) {
	q, _, err := b.sample(ctx, service)
	return q, err
}

func (b *Broker) sample(ctx context.Context, service string) (Queue, map[partition]shard, error) {
	s := b.samples.of(service)
	if q, shards, recent := s.recent(); recent {
		return q, shards, nil
	}
	if err := s.look.take(ctx); err != nil {
		return Queue{}, nil, err
	}
	defer s.look.give()
	if q, shards, recent := s.recent(); recent { // somebody looked meanwhile
		return q, shards, nil
	}
	if err := b.Ready(); err != nil {
		return Queue{}, nil, err
	}
	if err := b.measure(ctx, service, s); err != nil {
		return Queue{}, nil, err
	}
	return s.queue, s.shards, nil
}

func (s *sample) recent() (Queue, map[partition]shard, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue, s.shards, time.Since(s.at) < sampleAge
}

// measure asks every partition in one pipeline.
func (b *Broker) measure(ctx context.Context, service string, s *sample) error {
	type look struct {
		length, waiting *redis.IntCmd
		scheduled       *redis.IntCmd
		gated           *redis.IntCmd
		first           [2]*redis.StringSliceCmd // in line and at a gate
		pending         *redis.XPendingCmd
		counts          *redis.SliceCmd
		groups          *redis.XInfoGroupsCmd
	}
	n := b.Partitions()
	looks := make([]look, n)
	pipe := b.redis.commands.Pipeline()
	for i, p := range b.parts()[:n] {
		looks[i] = look{
			pipe.XLen(ctx, p.queue(service)), pipe.ZCard(ctx, p.waiting(service)),
			pipe.ZCount(ctx, p.waiting(service), firstInstant, "("+gated), pipe.ZCount(ctx, p.waiting(service), gated, "+inf"),
			[2]*redis.StringSliceCmd{
				pipe.ZRangeByScore(ctx, p.waiting(service), &redis.ZRangeBy{Min: "-inf", Max: "(" + firstInstant, Count: 1}),
				pipe.ZRangeByScore(ctx, p.waiting(service), &redis.ZRangeBy{Min: gated, Max: "+inf", Count: 1}),
			},
			pipe.XPending(ctx, p.queue(service), workersGroup),
			pipe.HMGet(ctx, p.counts(), "a:"+service, "f:"+service, "b:"+service, "r:"+service, "e:"+service),
			pipe.XInfoGroups(ctx, p.queue(service)),
		}
	}
	clock := b.clockIn(ctx, pipe)
	_, _ = pipe.Exec(ctx) // a stream or group that is missing is an empty one
	now, err := clock()
	if err != nil {
		return fault("sample a queue", err)
	}
	var q Queue
	shards, holds := make(map[partition]shard, n), map[string]int{}
	var sum totals
	var starts int64 // since the last look
	for p, l := range looks {
		running := 0
		if pending, err := l.pending.Result(); err == nil && pending != nil {
			running = int(pending.Count)
			for consumer, n := range pending.Consumers {
				holds[consumer] += int(n)
			}
		}
		undelivered := max(0, int(l.length.Val())-running)
		q.Running += running
		q.Scheduled += int(l.scheduled.Val())
		q.Gated += int(l.gated.Val())
		q.InLine += int(l.waiting.Val() - l.scheduled.Val() - l.gated.Val())
		for _, first := range l.first {
			if len(first.Val()) > 0 {
				name, _, _ := strings.Cut(first.Val()[0], "/") // of a leg, or a shared run
				if id, err := correlation.Parse(name); err == nil {
					q.OldestAge = max(q.OldestAge, now.Sub(id.Time()))
				}
			}
		}
		q.Depth += undelivered + int(l.waiting.Val())
		counts := counted(l.counts.Val())
		here := shard{claimed: counts[0] - int64(undelivered), unclaimed: undelivered}
		shards[b.part(p)] = here
		starts += here.claimed - s.shards[b.part(p)].claimed
		sum.started += here.claimed
		sum.finished, sum.busy = sum.finished+counts[1], sum.busy+counts[2]
		sum.retried, sum.failed = sum.retried+counts[3], sum.failed+counts[4]
		if undelivered > 0 && len(l.groups.Val()) > 0 {
			q.OldestAge = max(q.OldestAge, b.oldestAge(ctx, b.part(p), service, l.groups.Val()[0].LastDeliveredID, now))
		}
	}
	q.PerSecond, q.Pace, q.RunTime = s.queue.PerSecond, s.queue.Pace, s.queue.RunTime
	q.Finished, q.Failed = s.queue.Finished, s.queue.Failed
	if elapsed := time.Since(s.at).Seconds(); s.firstSeen {
		fresh := max(0, float64(starts)/elapsed)
		weight := 1 - math.Pow(1-rateMemory, elapsed)
		q.PerSecond += weight * (fresh - q.PerSecond)
		q.Pace = pace(q, fresh, elapsed, weight)
		done, failed := sum.finished-s.totals.finished, sum.failed-s.totals.failed
		q.Finished += weight * (max(0, float64(done)/elapsed) - q.Finished)
		q.Failed += weight * (max(0, float64(failed)/elapsed) - q.Failed)
		if done > 0 {
			q.RunTime = time.Duration((sum.busy-s.totals.busy)/done) * time.Millisecond
		}
	}
	s.totals, s.firstSeen = sum, true
	now = time.Now()
	q.Attempts = s.attempts(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.queue, s.shards, s.holds = now, q, shards, holds
	return nil
}

// attempts remembers the present totals and compares them with those of a
// minute ago.
func (s *sample) attempts(now time.Time) Attempts {
	s.past = append(s.past, pastTotals{s.totals, now})
	for len(s.past) > 2 && now.Sub(s.past[1].at) >= attemptWindow {
		s.past = s.past[1:]
	}
	first := s.past[0]
	if s.totals.started < first.started { // Redis lost its data
		s.past = s.past[len(s.past)-1:]
		return Attempts{}
	}
	return Attempts{now.Sub(first.at), int(s.totals.started - first.started), int(s.totals.retried - first.retried)}
}

// pace is what the workers take when they have enough to do. Claims tell that
// only where somebody waited all the time since the last look: a service that is
// asked once a minute starts once a minute, and could do more.
func pace(q Queue, fresh, elapsed, weight float64) float64 {
	switch waited := q.OldestAge.Seconds() >= elapsed; {
	case !waited && q.Pace == 0:
		return 0
	case !waited:
		return max(q.Pace, fresh) // it kept up with as much
	case q.Pace == 0:
		return fresh
	default:
		return q.Pace + weight*(fresh-q.Pace)
	}
}

func counted(raw []any) (n [5]int64) {
	for i, v := range raw {
		if text, ok := v.(string); ok && i < len(n) {
			n[i] = number(text)
		}
	}
	return n
}

// oldestAge looks at the first entry that nobody was given. Its body comes
// along, which is why it is asked at most once a second.
func (b *Broker) oldestAge(ctx context.Context, p partition, service, delivered string, now time.Time) time.Duration {
	next, err := b.redis.commands.XRangeN(ctx, p.queue(service), after(delivered), "+", 1).Result()
	if err != nil || len(next) == 0 {
		return 0
	}
	return max(0, now.Sub(entryTime(next[0].ID)))
}

// after is the smallest stream ID above id: exclusive ranges are not
// understood everywhere.
func after(id string) string {
	ms, seq, ok := cutEntry(id)
	if !ok {
		return "-"
	}
	return ms + "-" + seq
}

// Position estimates the place of a queued request in its line, 1 being next,
// and when it will start (zero if unknown, or while its service is paused). ok is false where it isn't queued
// or nothing can be told.
func (b *Broker) Position(ctx context.Context, r Record) (position int, start time.Time, ok bool) {
	if r.Status != Queued || len(r.Legs) > 0 {
		return 0, time.Time{}, false
	}
	q, shards, err := b.sample(ctx, r.Service)
	if err != nil {
		return 0, time.Time{}, false
	}
	here := shards[b.partitionOf(r.ID)]
	switch {
	case r.Rank > 0: // behind what is on the stream
		position = here.unclaimed + r.Rank
	case r.Ordinal > 0 && r.Attempt == 1:
		position = int(r.Ordinal - here.claimed)
	default: // it waited before, and is somewhere on the stream
		position = here.unclaimed
	}
	position = max(1, min(position, max(1, q.Depth)))
	if q.Pace > 0.01 && b.Paused(r.Service).IsZero() {
		start = time.Now().UTC().Add(time.Duration(float64(position) / q.Pace * float64(time.Second))).Truncate(time.Millisecond)
	}
	return position, start, true
}

// RetryAfter is in how many seconds (1 to 60) asking again is worth while, from
// the queue's depth and what the service takes.
func (b *Broker) RetryAfter(ctx context.Context, r Record) int {
	if len(r.Legs) > 0 {
		return b.retryAfterLegs(ctx, r)
	}
	q, _, err := b.sample(ctx, r.Service)
	if err != nil {
		return 1
	}
	wait := q.RunTime
	if position, start, ok := b.Position(ctx, r); ok && !start.IsZero() {
		wait += time.Until(start)
	} else if ok && q.RunTime > 0 {
		wait += time.Duration(position-1) * q.RunTime
	}
	switch {
	case r.Status == Running && !r.Started.IsZero():
		wait = q.RunTime - time.Since(r.Started)
	case r.Status == Scheduled && !r.Release.IsZero():
		wait += time.Until(r.Release)
	case r.Status == Queued && !b.Paused(r.Service).IsZero():
		wait = max(wait, pausedRetryAfter)
	}
	return max(1, min(maxRetryAfter, int(math.Ceil(wait.Seconds()))))
}
