package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/coatcheck/coatcheck/internal/bench"
)

const (
	pollers   = 5000
	polledIDs = 50
	pollPause = 500 * time.Millisecond // each asks twice a second
)

// idleRow: a gateway with a worker and nothing to do.
func (l *lab) idleRow(ctx context.Context) error {
	_, err := l.once(ctx, setup{kind: product, workers: concurrency}, func(ctx context.Context, k *stack) (sample, error) {
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
		polling, stop := context.WithTimeout(ctx, l.duration+2*warmup)
		defer stop()
		done := make(chan error, 1)
		polls := make([]int, pollers)
		go func() {
			done <- each(pollers, func(i int) error { return k.poll(polling, ids[i%polledIDs], &polls[i]) })
		}()
		if err := pause(ctx, warmup); err != nil {
			return sample{}, err
		}
		before := k.read()
		if err := pause(ctx, l.duration); err != nil {
			return sample{}, err
		}
		s := k.read().minus(before, l.duration.Seconds()*polledIDs)
		stop()
		if err := <-done; err != nil {
			return sample{}, err
		}
		total, all := 0.0, 0
		for _, n := range s.sent {
			total += n
		}
		for _, n := range polls {
			all += n
		}
		l.bound("5,000 clients polling 50 requests: commands to Redis per request and second", atMost(3, ""), bound{}, total,
			"%.0f polls/s; %s", float64(all)/(l.duration+2*warmup).Seconds(), commands(s.sent))
		return s, nil
	})
	return err
}

// poll asks for a status twice a second, from a random instant on.
func (k *stack) poll(ctx context.Context, id string, n *int) error {
	c, err := bench.NewConn(ctx, k.url)
	if err != nil {
		return err
	}
	defer c.Close()
	if pause(ctx, rand.N(pollPause)) != nil {
		return nil
	}
	for next := time.NewTicker(pollPause); ; {
		if _, err := c.Get("/v1/requests/"+id, time.Now().Add(startTime)); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		*n++
		select {
		case <-next.C:
		case <-ctx.Done():
			next.Stop()
			return nil
		}
	}
}
