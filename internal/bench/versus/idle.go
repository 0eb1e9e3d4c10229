package main

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/internal/bench"
)

const (
	pollers   = 5000
	polledIDs = 50
	pollPause = 500 * time.Millisecond // each asks twice a second

	pollSpread = 5 * time.Second // in which all of them come
	pollTime   = 2 * time.Minute // after which a machine is too slow for this
)

// idleRow: a gateway with a worker and nothing to do.
func (l *lab) idleRow(ctx context.Context) error {
	_, err := l.once(ctx, setup{kind: product, worker: true}, func(ctx context.Context, k *stack) (sample, error) {
		if err := pause(ctx, settled); err != nil {
			return sample{}, err
		}
		before := k.read()
		if err := pause(ctx, idleTime); err != nil {
			return sample{}, err
		}
		s := k.read().minus(before, idleTime.Seconds()) // µs a second
		l.bound("idle gateway, of a core", atMost(1, " %"), bound{}, s.gateway/1e4, "Redis %.1f %%, the worker %.1f %%", s.redis/1e4, s.worker/1e4)
		return s, nil
	})
	return err
}

// pollRow: many who poll the same few requests.
func (l *lab) pollRow(ctx context.Context) error {
	_, err := l.once(ctx, setup{kind: product, tapped: true}, func(ctx context.Context, k *stack) (sample, error) {
		ids, err := k.submitted(ctx, polledIDs)
		if err != nil {
			return sample{}, err
		}
		polling, stop := context.WithTimeout(ctx, pollTime)
		defer stop()
		done := make(chan error, 1)
		var polls polled
		go func() {
			done <- each(pollers, func(i int) error { return k.poll(polling, ids[i%polledIDs], &polls) })
		}()
		for polls.open.Load() < pollers && polling.Err() == nil {
			if err := pause(ctx, lookEvery); err != nil {
				return sample{}, err
			}
		}
		before, asked, began := k.read(), polls.all.Load(), time.Now()
		if err := pause(ctx, l.duration); err != nil {
			return sample{}, err
		}
		took := time.Since(began).Seconds()
		s := k.read().minus(before, took*polledIDs)
		asked = polls.all.Load() - asked
		stop()
		if err := <-done; err != nil {
			return sample{}, err
		}
		l.bound("5,000 clients polling 50 requests: commands to Redis per request and second", atMost(3, ""), bound{}, s.commands(),
			"%.0f polls/s of the %.0f wanted, %d of %d without an answer; %s", float64(asked)/took, pollers/pollPause.Seconds(), polls.failed.Load(), polls.all.Load(), s.commandsText())
		return s, nil
	})
	return err
}

// polled counts polls.
type polled struct{ open, all, failed atomic.Int64 }

// poll asks for a status twice a second, from an instant of its own on.
func (k *stack) poll(ctx context.Context, id string, count *polled) error {
	c, err := bench.NewConn(ctx, k.url)
	if err != nil {
		return err
	}
	defer c.Close()
	if pause(ctx, rand.N(pollSpread)) != nil {
		return nil
	}
	next := time.NewTicker(pollPause)
	defer next.Stop()
	for first := true; ; first = false {
		_, err := c.Get("/v1/requests/"+id, time.Now().Add(startTime))
		if ctx.Err() != nil {
			return nil
		}
		count.all.Add(1)
		if first {
			count.open.Add(1)
		}
		if err != nil {
			count.failed.Add(1)
		}
		select {
		case <-next.C:
		case <-ctx.Done():
			return nil
		}
	}
}
