package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// ensureStreams makes the streams of fresh services, and those that Redis refused
// the last time, since a key of that name is something else. That is no reason
// not to start, and the other services have theirs. It is called with
// services.read taken.
func (b *Broker) ensureStreams(ctx context.Context, partitions int, fresh []string) error {
	wanted := map[string]bool{}
	for _, name := range append(fresh, b.services.owed...) {
		wanted[name] = true
	}
	err := b.createStreams(ctx, partitions, slices.Sorted(maps.Keys(wanted)))
	refused, ok := errors.AsType[refusedStreams](err)
	if err != nil && !ok {
		return err
	}
	if ok && !slices.Equal(refused.services, b.services.owed) {
		b.log.Error("Redis refuses the streams of services; trying again", "services", refused.services, "error", refused.answer)
	}
	b.services.owed = refused.services
	return nil
}

// refusedStreams says for which services a key of another type stands where
// their stream should be.
type refusedStreams struct {
	services []string // sorted, each once
	answer   error    // the last of them
}

func (r refusedStreams) Error() string {
	return fmt.Sprintf("create the streams of %s: %v", strings.Join(r.services, ", "), r.answer)
}

func (r refusedStreams) Unwrap() error { return fault("create the streams", r.answer) }

// createStreams makes the groups of services in all partitions. refusedStreams.
func (b *Broker) createStreams(ctx context.Context, partitions int, services []string) error {
	streams := make([]string, 0, partitions*len(services))
	for _, p := range b.parts()[:partitions] {
		for _, s := range services {
			streams = append(streams, p.queue(s))
		}
	}
	answers, err := b.createGroups(ctx, streams, workersGroup)
	if err != nil {
		return err
	}
	refused := refusedStreams{}
	for i, answer := range answers {
		if answer != nil {
			refused.services, refused.answer = append(refused.services, services[i%len(services)]), answer
		}
	}
	if refused.answer == nil {
		return nil
	}
	slices.Sort(refused.services)
	refused.services = slices.Compact(refused.services)
	return refused
}

// createGroups makes a group on each of the streams, at 0 so that one which comes
// back sees what is there. An answer is why one of them can't be made: a key of
// another type is in its place.
func (b *Broker) createGroups(ctx context.Context, streams []string, group string) ([]error, error) {
	if len(streams) == 0 {
		return nil, nil
	}
	made, _ := b.redis.commands.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, s := range streams {
			pipe.XGroupCreateMkStream(ctx, s, group, "0")
		}
		return nil
	}) // each answer has its own error
	answers := make([]error, len(streams))
	for i, a := range made {
		err := a.Err()
		if err != nil && strings.HasPrefix(err.Error(), "OOM") { // even for a group that is there
			_, err = groupScript.run(ctx, b.redis, partition{}, streams[i:i+1], group)
		}
		switch {
		case err == nil || isBusyGroup(err):
		case isWrongType(err):
			answers[i] = err
		default:
			return nil, fault("create the streams", err)
		}
	}
	return answers, nil
}

func isBusyGroup(err error) bool { return strings.HasPrefix(err.Error(), "BUSYGROUP") }

// isWrongType tells whether a key is something else than a command is for, as
// Redis says it to a script or outside of one.
func isWrongType(err error) bool { return err != nil && strings.Contains(err.Error(), "WRONGTYPE") }
