package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/loop"
)

// Limits of one settle. They bound for how long one script keeps Redis busy, and what of
// the replies is in memory at once.
const (
	settleReplies = 32
	settleBytes   = 1 << 20
	decideBatch   = 128
	clockBatch    = 32 // groups of requests that were accepted together
	lapseBatch    = 32
	sweepBytes    = 1 << 20

	maxEventSize = 256 << 10 // bytes of a progress or partial reply; a larger one is set aside
)

var (
	settleScript = newScript("settle")
	decideScript = newScript("decide", "clocks")
	lapseScript  = newScript("lapse")
	sweepScript  = newScript("sweep")
)

// Fact is one thing that upkeep found or did, for the log and the metrics.
type Fact struct {
	// Kind is outcome, event, heartbeat, retry, release, lapse, or why a reply
	// was dropped: late, duplicate, stale, orphan, foreign, garbage, oversize;
	// cacheable says that a worker let its reply be cached where nothing was;
	// gap says that a worker's numbering skipped, acked that it acknowledged an
	// entry by itself, which the protocol forbids.
	Kind    string
	ID      string // of a leg the whole's, of a shared run the first's; "-" where there is none
	Service string // "-" where it is unknown

	// Of an outcome:
	Status  Status
	Reason  string
	Total   time.Duration // accepted → outcome
	RunTime time.Duration // claimed → outcome, 0 if never claimed
	Attempt int
}

func parseReport(lines []string) []Fact {
	facts := make([]Fact, 0, len(lines))
	for line := range strings.Lines(strings.Join(lines, "\n")) { // what ends a scatter is several
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		fact := Fact{Kind: f[0], Service: f[2]}
		fact.ID, _, _ = strings.Cut(f[1], "/")
		if fact.Kind == "outcome" && len(f) == 8 {
			fact.Status, fact.Reason = Status(f[3]), f[4]
			fact.Total, fact.RunTime, fact.Attempt = msec(f[5]), msec(f[6]), int(number(f[7]))
		}
		facts = append(facts, fact)
	}
	return facts
}

// Settle applies the oldest replies of a partition, as many as are read at once: the reply
// is the acknowledgement. Those that want a verdict are judged on the way. more says that
// replies are left.
func (b *Broker) Settle(ctx context.Context, p int) (facts []Fact, more bool, err error) {
	return b.SettleNext(ctx, p, -1)
}

// SettleNext is Settle once there is a reply, for which it waits at most for block (at most
// 2 s).
func (b *Broker) SettleNext(ctx context.Context, p int, block time.Duration) (facts []Fact, more bool, err error) {
	part := b.part(p)
	replies, all, err := b.readReplies(ctx, part, block)
	if err == nil && len(replies) == 0 {
		return nil, false, nil
	}
	left := 0
	if err == nil {
		facts, left, err = b.settlePlain(ctx, part, replies)
	}
	if isTimeout(err) && b.readsAtOnce(part) == 1 && ctx.Err() == nil {
		left, err = 1, nil // not one came in time, maybe for its size: settle.lua lets none of its bytes travel
	}
	if err != nil {
		b.replySize.Store(p, int64(settleBytes))
		return facts, false, fault("settle replies", err)
	}
	if left == 0 || ctx.Err() != nil {
		return facts, left > 0 || !all, nil
	}
	others, more, err := b.settleOthers(ctx, part, left)
	return append(facts, others...), more, err
}

// readReplies reads the oldest replies, waiting for the first up to block; not at all
// below 0. It takes nothing; all tells that there were no more. 32 of 10 MiB behind small
// ones are the most that is in memory, and what goes beyond settleBytes is left for later.
func (b *Broker) readReplies(ctx context.Context, p partition, block time.Duration) (replies []redis.XMessage, all bool, err error) {
	client := b.redis.commands
	if block >= 0 {
		block, client = min(max(block, time.Millisecond), longestBlock), b.redis.blocking
	}
	ctx, stop := patience(ctx, block)
	defer stop()
	n := b.readsAtOnce(p)
	found, err := client.XRead(ctx, &redis.XReadArgs{Streams: []string{p.replies(), "0"}, Count: n, Block: block}).Result()
	if errors.Is(err, redis.Nil) || err == nil && len(found) == 0 {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	replies = found[0].Messages
	size, fit := 0, 0
	for i, m := range replies {
		for _, value := range m.Values {
			size += len(text(value))
		}
		if i == 0 || size <= settleBytes {
			fit = i + 1
		}
	}
	b.replySize.Store(p.number, int64(size/max(len(replies), 1)+1))
	return replies[:fit], fit == len(replies) && fit < int(n), nil
}

// readsAtOnce is how many replies are read together, by the size of those before. The first
// time, and after an error, it is one: who died of more would die of them again.
func (b *Broker) readsAtOnce(p partition) int64 {
	size, _ := b.replySize.Load(p.number)
	before, _ := size.(int64)
	return min(max(settleBytes/cmp.Or(before, settleBytes), 1), settleReplies)
}

// settleOthers applies the n oldest replies, whatever they are. Where settle.lua stops for
// want of verdicts, they are judged and it goes on.
func (b *Broker) settleOthers(ctx context.Context, part partition, n int) (facts []Fact, more bool, _ error) {
	args := []any{
		n, settleBytes, loop.Chance(b.name), b.eventLimits(), maxEventSize, b.options.MaxReply, b.options.Judge.among(), b.name,
	}
	var verdicts []any
	for {
		raw, err := settleScript.run(ctx, b.redis, part, []string{part.replies()}, slices.Concat(args, verdicts)...)
		if err != nil {
			b.mayHaveWoken(err)
			return facts, false, fault("settle replies", err)
		}
		list := raw.([]any)
		b.wakeOwn(list[3], list[4])
		found := parseReport(texts(list[1]))
		b.count(found)
		b.remember(ctx, found)
		facts = append(facts, found...)
		left, _ := list[0].(int64)
		entries := texts(list[2])
		if len(entries) == 0 || ctx.Err() != nil {
			return facts, left > 0, nil
		}
		if verdicts, err = b.judge(ctx, part, entries); err != nil {
			return facts, false, err
		}
	}
}

// eventLimits is a line for each service that has limits of its own, and last one
// for all others: "service events bytes".
func (b *Broker) eventLimits() string {
	var lines strings.Builder
	for name, own := range b.options.Services {
		if c := own.over(b.options.Defaults); c.MaxEvents != b.options.Defaults.MaxEvents || c.MaxEventBytes != b.options.Defaults.MaxEventBytes {
			fmt.Fprintf(&lines, "%s %d %d\n", name, c.MaxEvents, c.MaxEventBytes)
		}
	}
	fmt.Fprintf(&lines, "* %d %d\n", b.options.Defaults.MaxEvents, b.options.Defaults.MaxEventBytes)
	return lines.String()
}

// Decision is what Decide and Lapse found.
type Decision struct {
	Facts  []Fact
	Settle bool      // replies must be settled first, then ask again
	More   bool      // more is due already, or silent
	Next   time.Time // when something is due next, of Redis' clock; zero for nothing
}

// Decide fires what is due in a partition: timeouts, back-offs that are over,
// callbacks to try again.
func (b *Broker) Decide(ctx context.Context, p int) (Decision, error) {
	part := b.part(p)
	raw, err := decideScript.run(ctx, b.redis, part, []string{part.due(), part.clocks()}, decideBatch, clockBatch)
	if err != nil {
		return Decision{}, fault("decide what is due", err)
	}
	list := raw.([]any)
	v := texts(list)
	d := Decision{Facts: parseReport(texts(list[2])), Settle: v[0] == "settle", More: v[0] == "more", Next: millis(v[1])}
	b.count(d.Facts)
	return d, nil
}

// Lapse takes the work of a service away from workers that fell silent. ErrMemory
// where Redis is full: nobody can be heard then.
func (b *Broker) Lapse(ctx context.Context, p int, service string) (Decision, error) {
	part := b.part(p)
	raw, err := lapseScript.run(ctx, b.redis, part, []string{part.queue(service)},
		service, b.service(service).Lease.Milliseconds(), lapseBatch)
	if isWrongType(err) {
		b.log.Error("the stream of a service is something else in Redis; its requests can't be looked after", "service", service, "partition", p)
		return Decision{}, nil // the other services go on
	}
	if err != nil {
		return Decision{}, fault("look for lapsed leases", err)
	}
	list := raw.([]any)
	verdict := texts(list)[0]
	if verdict == "nogroup" {
		b.log.Warn("the worker group of a stream was lost; making it again", "service", service, "partition", p)
		return Decision{}, b.createStreams(ctx, b.Partitions(), []string{service})
	}
	d := Decision{Facts: parseReport(texts(list[1])), Settle: verdict == "settle", More: verdict == "more"}
	b.count(d.Facts)
	return d, nil
}

// Sweep looks at the next of the entries of a service that were handed out,
// from after on ("" for the first), and takes back those that no worker holds
// any more. next is where to go on, "" once the end was reached.
func (b *Broker) Sweep(ctx context.Context, p int, service, after string) (facts []Fact, next string, err error) {
	part := b.part(p)
	raw, err := sweepScript.run(ctx, b.redis, part, []string{part.queue(service)}, service, after, sweepBytes)
	if isWrongType(err) {
		return nil, "", nil // Lapse says so
	}
	if err != nil {
		return nil, "", fault("sweep a queue", err)
	}
	list := raw.([]any)
	facts = parseReport(texts(list[1]))
	b.count(facts)
	return facts, texts(list)[0], nil
}
