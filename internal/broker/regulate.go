package broker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	regulateScript = newScript("regulate")
	pauseScript    = newPlainScript("pause")
	resumeScript   = newPlainScript("resume")
)

// pauseTries is how often a partition is told what a service is: two who pause and resume it
// for ever hold up nothing else. The next round of its steward goes on.
const pauseTries = 4

// errLate is the answer of a pause that came to Redis when its time was over: slowly, or the
// clock of Redis was set.
var errLate = errors.New("it came too late")

// Regulate has the stream of a service hold what it may, in one partition: it
// sets the limit, takes back what is above, and releases what there is room for.
// It also has the partition hear of a pause, or of the end of one, that it missed since
// the gateway that was about to tell it is no more.
// more says that there is more to move. ErrUnavailable.
func (b *Broker) Regulate(ctx context.Context, p int, service string) (more bool, err error) {
	part := b.part(p)
	more, heard, err := b.regulate(ctx, part, service, heeded{})
	if isWrongType(err) {
		b.log.Error("the stream or the line of a service is something else in Redis; what waits there can't be released", "service", service, "partition", p)
		return false, nil // the other services go on
	}
	if err != nil || heard != b.Paused(service).IsZero() {
		return more, err
	}
	for range pauseTries { // one of the two is wrong, or what this process knows is old
		now, err := b.heed(ctx, part, service)
		if err != nil || now.paused == heard {
			return more, err
		}
		if more, heard, err = b.regulate(ctx, part, service, now); err != nil {
			return false, err
		}
	}
	return more, nil
}

// heeded is what cc:paused says of a service; the zero value is that nobody looked.
type heeded struct {
	paused bool
	at     time.Time // by the clock of the partition's Redis, before it was looked
}

// heed reads whether a service is paused. What a partition hears of later stands.
func (b *Broker) heed(ctx context.Context, p partition, service string) (h heeded, err error) {
	if h.at, err = b.clockOf(ctx, p.limits()); err != nil {
		return h, err
	}
	h.paused, err = b.redis.commands.HExists(ctx, pausedKey, service).Result()
	return h, fault("look whether a service is paused", err)
}

func (h heeded) change() string {
	switch {
	case h.at.IsZero():
		return ""
	case h.paused:
		return "pause"
	}
	return "resume"
}

// regulate also tells whether the partition takes the service for paused.
func (b *Broker) regulate(ctx context.Context, p partition, service string, told heeded) (more, paused bool, err error) {
	raw, err := regulateScript.run(ctx, b.redis, p, []string{p.queue(service)},
		service, told.change(), b.service(service).Concurrency, b.slots(ctx, service), told.at.UnixMicro())
	if err != nil {
		return false, false, fault("regulate a queue", err)
	}
	v := texts(raw)
	return v[1] == "1", v[2] == "1", nil
}

// slots is how many requests the live workers of a service take at once, in each
// partition; 0 where none announced any, or it can't be told.
func (b *Broker) slots(ctx context.Context, service string) int {
	all, err := b.Slots(ctx, service)
	if err != nil {
		return 0
	}
	return (all + b.Partitions() - 1) / b.Partitions()
}

// Regulated lists the services of a partition that have a limit, or are to have
// one, as all do that are paused: the others need no Regulate. ErrUnavailable.
func (b *Broker) Regulated(ctx context.Context, p int) ([]string, error) {
	fields, err := b.redis.commands.HKeys(ctx, b.part(p).limits()).Result()
	if err != nil {
		return nil, fault("look for limits", err)
	}
	services := map[string]bool{}
	for _, f := range fields {
		_, name, flag := strings.Cut(f, ":")
		if !flag {
			name = f
		}
		services[name] = true
	}
	now := b.shared.Load()
	for name := range now.paused {
		services[name] = true
	}
	for name := range now.services {
		if b.service(name).Concurrency > 0 {
			services[name] = true
		}
	}
	return slices.Sorted(maps.Keys(services)), nil
}

// Pause has requests of a service accepted and not dispatched, until Resume.
// Once it returned, no worker is given another; those that have one go on.
// Pausing twice does no harm. ErrUnknownService, ErrUnavailable.
func (b *Broker) Pause(ctx context.Context, service string) error {
	return b.setPaused(ctx, service, true)
}

// Resume takes Pause back. Resuming what is not paused does no harm.
func (b *Broker) Resume(ctx context.Context, service string) error {
	return b.setPaused(ctx, service, false)
}

func (b *Broker) setPaused(ctx context.Context, service string, paused bool) error {
	if known, err := b.KnowsService(ctx, service); err != nil || !known {
		if err == nil {
			err = ErrUnknownService
		}
		return err
	}
	if err := b.configure(ctx); err != nil { // a partition that was just added counts too
		return err
	}
	if err := b.setCommonPause(ctx, service, paused); err != nil {
		return fault("pause or resume a service", err)
	}
	if err := b.enforcePause(ctx, service); err != nil {
		return err
	}
	return b.refreshPaused(ctx)
}

// setCommonPause says in cc:paused what the partitions are to heed. A pause that comes to
// Redis when this has given up is none: it would be for good, after a later resume too.
func (b *Broker) setCommonPause(ctx context.Context, service string, paused bool) error {
	if paused {
		now, err := b.clockOf(ctx, pausedKey)
		if err != nil {
			return err
		}
		patience := commandTimeout
		if end, ok := ctx.Deadline(); ok {
			patience = min(patience, time.Until(end))
		}
		since, err := pauseScript.run(ctx, b.redis, partition{}, []string{pausedKey}, service, now.Add(patience).UnixMilli())
		if err == nil && since == int64(0) {
			err = errLate
		}
		return err
	}
	since, err := b.redis.commands.HGet(ctx, pausedKey, service).Result()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = resumeScript.run(ctx, b.redis, partition{}, []string{pausedKey}, service, since)
	return err
}

// enforcePause has every partition do what cc:paused says of a service. It looks
// again when it is through: of two who say different things at once, each would
// have had its way with some of the partitions. Of those who never agree it takes no
// notice in the end: whoever was the last has its own rounds, and what none of them told
// a partition its steward does, see Regulate.
func (b *Broker) enforcePause(ctx context.Context, service string) error {
	for range pauseTries {
		told := map[bool]bool{} // what partitions were told
		for _, p := range b.parts() {
			now, err := b.heed(ctx, p, service)
			if err != nil {
				return err
			}
			told[now.paused] = true
			more, heard, err := b.regulate(ctx, p, service, now)
			for ; err == nil && more && heard; more, heard, err = b.regulate(ctx, p, service, heeded{}) {
			} // what a resume releases, also another's, the stewards go on with
			if err != nil {
				return err
			}
		}
		still, err := b.redis.commands.HExists(ctx, pausedKey, service).Result()
		if err != nil || !told[!still] {
			return fault("look whether a service is paused", err)
		}
	}
	return nil
}

// Paused is since when a service is paused; zero where it is not. It is at most
// a second old.
func (b *Broker) Paused(service string) time.Time { return b.shared.Load().paused[service] }

// pauses is the deployment whose partitions have heard of every pause.
type pauses struct {
	read       turn // one refresh at a time; guards the rest
	founded    string
	partitions int
}

// refreshPaused reads which services are paused. It puts that back where Redis
// lost it, and tells the partitions where some may not have heard of it: they are
// new, or this process is.
func (b *Broker) refreshPaused(ctx context.Context) error {
	if err := b.pauses.read.take(ctx); err != nil {
		return err
	}
	defer b.pauses.read.give()
	now := b.shared.Load()
	if b.pauses.founded != "" && b.pauses.founded != now.founded {
		for service, since := range now.paused {
			if err := b.redis.commands.HSetNX(ctx, pausedKey, service, since.UnixMilli()).Err(); err != nil {
				return fault("put back a pause", err)
			}
		}
	}
	known, err := b.redis.commands.HGetAll(ctx, pausedKey).Result()
	if err != nil {
		return fault("read which services are paused", err)
	}
	paused := make(map[string]time.Time, len(known))
	for service, since := range known {
		paused[service] = millis(since)
	}
	if b.pauses.founded != now.founded || b.pauses.partitions != now.partitions {
		for service := range paused {
			if err := b.enforcePause(ctx, service); err != nil {
				return err
			}
		}
		b.pauses.founded, b.pauses.partitions = now.founded, now.partitions
	}
	for {
		now := b.shared.Load()
		next := *now
		next.paused = paused
		if b.shared.CompareAndSwap(now, &next) {
			return nil
		}
	}
}
