package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	healthInterval  = 500 * time.Millisecond
	healthTimeout   = time.Second
	refreshInterval = time.Second // how soon every gateway knows a new service
)

// refresher remembers when the services were last read.
type refresher struct {
	mu      sync.Mutex // guards the rest, and lets one read at a time
	last    time.Time
	ignored map[string]bool // announced names that no service may have, said once
	owed    []string        // services whose streams Redis refused to make, sorted
}

// age is how long ago the last read began.
func (r *refresher) age() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.last)
}

// Run does the upkeep of this process until ctx ends: health, durability, new services,
// configuration, and putting both back after Redis lost its data.
func (b *Broker) Run(ctx context.Context) error {
	health := time.NewTicker(healthInterval)
	defer health.Stop()
	for ctx.Err() == nil {
		b.checkHealth(ctx)
		if b.Ready() == nil {
			b.inspectIfDue(ctx)
		}
		if b.Ready() == nil && b.services.age() >= refreshInterval {
			if err := b.refresh(ctx); err != nil && ctx.Err() == nil {
				b.log.Warn("read the shared configuration", "error", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-health.C:
		}
	}
	return nil
}

// Ready is nil while Redis answers, else an ErrUnavailable. It asks nobody: Run
// looks every 500 ms.
func (b *Broker) Ready() error {
	if err := b.health.Load(); err != nil {
		return *err
	}
	return nil
}

func (b *Broker) checkHealth(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, healthTimeout)
	defer stop()
	err := b.redis.commands.Ping(ctx).Err()
	if err == nil {
		if b.health.Swap(nil) != nil {
			b.log.Info("Redis answers again")
		}
		return
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	down := fmt.Errorf("ask Redis whether it is there: %w: %w", ErrUnavailable, err)
	if b.health.Swap(&down) == nil {
		b.log.Error("Redis does not answer; new requests are refused until it does", "error", err)
	}
}

// refresh re-reads what the gateways share.
func (b *Broker) refresh(ctx context.Context) error {
	there, err := b.redis.commands.Exists(ctx, configKey).Result()
	if err != nil {
		return fault("look for the configuration", err)
	}
	if there == 0 {
		b.tenants.forget()
		if err := load(ctx, b.redis.commands); err != nil {
			return fault("load the scripts", err)
		}
	}
	before := b.Partitions()
	if err := b.configure(ctx); err != nil {
		return err
	}
	if there == 0 || b.Partitions() != before {
		if err := b.createStreams(ctx, b.Partitions(), b.Services()); err != nil {
			return err
		}
	}
	b.checkMemory(ctx)
	if err := b.refreshServices(ctx); err != nil {
		return err
	}
	return b.refreshPaused(ctx)
}
