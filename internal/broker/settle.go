package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/loop"
)

// Limits of one settle. They bound for how long one script keeps Redis busy.
const (
	settleReplies = 128
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

// parsePlain reads what settle.lua says of plain outcomes: id, service and two times of each.
func parsePlain(list []any) []Fact {
	facts := make([]Fact, 0, len(list)/4)
	for ; len(list) >= 4; list = list[4:] {
		id, _ := list[0].(string)
		service, _ := list[1].(string)
		total, _ := list[2].(int64)
		run, _ := list[3].(int64)
		facts = append(facts, Fact{
			Kind: "outcome", ID: id, Service: service, Status: Succeeded, Reason: "-", Attempt: 1,
			Total: time.Duration(total) * time.Millisecond, RunTime: time.Duration(run) * time.Millisecond,
		})
	}
	return facts
}

// AwaitReplies blocks until there is a reply to settle in the partition, at
// most for block (at most 2 s). It takes nothing.
func (b *Broker) AwaitReplies(ctx context.Context, p int, block time.Duration) (bool, error) {
	ctx, stop := patience(ctx, block)
	defer stop()
	there, err := awaited(b.redis.blocking.XRead(ctx, awaiting(b.part(p), block)).Result())
	return there, fault("wait for replies", err)
}

func awaiting(p partition, block time.Duration) *redis.XReadArgs {
	return &redis.XReadArgs{Streams: []string{p.replies(), "0"}, Count: 1, Block: min(max(block, time.Millisecond), longestBlock)}
}

// awaited tells whether a wait for replies found any. That none came is no error.
func awaited(found []redis.XStream, err error) (bool, error) {
	if errors.Is(err, redis.Nil) || lostGroup(err) {
		return false, nil
	}
	return len(found) > 0, err
}

// Settle applies the oldest replies of a partition: the reply is the
// acknowledgement. Those that want a verdict are judged on the way. more says
// that replies are left.
func (b *Broker) Settle(ctx context.Context, p int) (facts []Fact, more bool, err error) {
	part := b.part(p)
	args := b.settleArgs()
	raw, err := settleScript.run(ctx, b.redis, part, []string{part.replies()}, args...)
	return b.judged(ctx, part, args, raw, err)
}

// SettleNext is AwaitReplies and Settle in one trip: Redis settles a reply as soon as it
// took it, and tells both. That is for a partition in which replies are rare; where many
// come at once, it settles them a few at a time.
func (b *Broker) SettleNext(ctx context.Context, p int, block time.Duration) (facts []Fact, more bool, err error) {
	if b.redis.nodes != nil { // where a pipeline may be sent again, with the wait of another call
		there, err := b.AwaitReplies(ctx, p, block)
		if err != nil || !there {
			return nil, false, err
		}
		return b.Settle(ctx, p)
	}
	part := b.part(p)
	args := b.settleArgs()
	raw, err := func() (any, error) {
		ctx, stop := patience(ctx, block)
		defer stop()
		pipe := b.redis.blocking.Pipeline()
		await := pipe.XRead(ctx, awaiting(part, block))
		settle := settleScript.in(ctx, pipe, b.redis, part, []string{part.replies()}, args...)
		_, _ = pipe.Exec(ctx) // each answer has its own error
		raw, err := settle.Result()
		if _, failed := awaited(await.Result()); err == nil {
			err = failed
		}
		return raw, err
	}()
	if isNoScript(err) {
		return b.Settle(ctx, p)
	}
	return b.judged(ctx, part, args, raw, err)
}

func (b *Broker) settleArgs() []any {
	return []any{
		settleReplies, settleBytes, loop.Chance(b.name), b.eventLimits(), maxEventSize, b.options.MaxReply, b.options.Judge.among(), flag(b.noneIsPlain), b.name,
		b.takes(), intentLease.Milliseconds(),
	}
}

// judged takes what settle.lua answered to args, and has it go on where that was for
// want of verdicts.
func (b *Broker) judged(ctx context.Context, part partition, args []any, raw any, err error) (facts []Fact, more bool, _ error) {
	for {
		if err != nil {
			b.mayHaveWoken(err)
			return facts, false, fault("settle replies", err)
		}
		list := raw.([]any)
		b.wakeOwn(list[5], list[6])
		found := slices.Concat(parsePlain(list[4].([]any)), parseReport(texts(list[2])))
		b.count(found)
		b.remember(ctx, found)
		b.takeOver(ctx, part, list[7].([]any))
		facts = append(facts, found...)
		left, _ := list[0].(int64)
		entries := texts(list[3])
		if len(entries) == 0 || ctx.Err() != nil {
			return facts, left > 0, nil
		}
		verdicts, wrong := b.judge(ctx, part, entries)
		if wrong != nil {
			return facts, false, wrong
		}
		raw, err = settleScript.run(ctx, b.redis, part, []string{part.replies()}, slices.Concat(args, verdicts)...)
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
