package broker

import (
	"context"
	"slices"
	"strconv"
	"time"
)

var (
	stewardScript  = newPlainScript("steward")
	handoverScript = newPlainScript("handover")
	tidyScript     = newPlainScript("tidy")
	retireScript   = newPlainScript("retire")
	presentScript  = newPlainScript("present")
	busyScript     = newPlainScript("busy")
)

// Hold takes or renews the lease of a partition's upkeep for this process.
// Where another has it, left is for how long still.
func (b *Broker) Hold(ctx context.Context, p int, lease time.Duration) (held bool, left time.Duration, err error) {
	part := b.part(p)
	raw, err := stewardScript.run(ctx, b.redis, part, []string{part.steward()}, b.name, lease.Milliseconds())
	if err != nil {
		return false, 0, fault("hold a partition", err)
	}
	v := texts(raw)
	return v[0] == "1", msec(v[1]), nil
}

// Present says that this process does upkeep and has so many partitions, and returns
// who else does, by name, with how many each has; this one is among them. Who was
// silent for longer than silence does not count.
func (b *Broker) Present(ctx context.Context, has int, silence time.Duration) (map[string]int, error) {
	raw, err := presentScript.run(ctx, b.redis, partition{}, []string{gatewaysKey}, b.name, has, silence.Milliseconds())
	if err != nil {
		return nil, fault("say that upkeep is done here", err)
	}
	v, there := texts(raw), map[string]int{}
	for i := 0; i+1 < len(v); i += 2 {
		there[v[i]] = int(number(v[i+1]))
	}
	return there, nil
}

// Leave says that this process does no more upkeep.
func (b *Broker) Leave(ctx context.Context) error {
	return fault("say that no more upkeep is done here", b.redis.commands.HDel(ctx, gatewaysKey, b.name).Err())
}

// HandOver gives a partition up; the others hear of it at once.
func (b *Broker) HandOver(ctx context.Context, p int) error {
	part := b.part(p)
	_, err := handoverScript.run(ctx, b.redis, part, []string{part.steward()}, b.name, p)
	return fault("hand a partition over", err)
}

// Released calls freed with each partition that a steward gives up, and with
// -1 after every (re)connection, when one may have been missed. Blocks until
// ctx ends.
func (b *Broker) Released(ctx context.Context, freed func(p int)) error {
	return b.subscribe(ctx, []string{stewardChannel}, func(_, payload string) {
		if p, err := strconv.Atoi(payload); err == nil {
			freed(p)
		}
	}, func() { freed(-1) })
}

// busyKeys is how many services one call of busy.lua looks at.
const busyKeys = 1000

// Busy lists the services of which a partition has entries: the others need no Lapse
// and no Sweep. thorough finds also what others did to a stream: its group is gone, or
// entries that are pending were deleted.
func (b *Broker) Busy(ctx context.Context, p int, thorough bool) (services []string, err error) {
	part := b.part(p)
	for names := range slices.Chunk(b.Services(), busyKeys) {
		keys := make([]string, len(names))
		for i, name := range names {
			keys[i] = part.queue(name)
		}
		raw, err := busyScript.run(ctx, b.redis, part, keys, flag(thorough), len(keys))
		if err != nil {
			return nil, fault("look which services have entries", err)
		}
		places, _ := raw.([]any)
		for _, place := range places {
			i, _ := place.(int64)
			services = append(services, names[i-1])
		}
	}
	return services, nil
}

// Tidy forgets the counts of expired records, and returns how many records of
// each outcome the partition keeps, to five minutes.
func (b *Broker) Tidy(ctx context.Context, p int) (map[Status]int, error) {
	part := b.part(p)
	raw, err := tidyScript.run(ctx, b.redis, part, []string{part.kept()})
	if err != nil {
		return nil, fault("count what is kept", err)
	}
	v, kept := texts(raw), map[Status]int{}
	for i := 0; i+1 < len(v); i += 2 {
		kept[Status(v[i])] = int(number(v[i+1]))
	}
	return kept, nil
}

// Retire forgets the workers and gateways that hold nothing of a partition and
// have not asked for anything for as long as silence. One that is still there
// is known again when it asks.
func (b *Broker) Retire(ctx context.Context, p int, silence time.Duration) (n int, err error) {
	part := b.part(p)
	groups := map[string]string{part.callbacks(): deliverersGroup}
	for _, s := range b.Services() {
		groups[part.queue(s)] = workersGroup
	}
	for stream, group := range groups {
		raw, err := retireScript.run(ctx, b.redis, part, []string{stream}, group, silence.Milliseconds())
		if err != nil {
			return n, fault("forget old consumers", err)
		}
		gone, _ := raw.(int64)
		n += int(gone)
	}
	return n, nil
}
