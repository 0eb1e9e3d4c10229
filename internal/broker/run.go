package broker

import (
	"context"
	"errors"
	"sync"
	"time"
)

const refreshInterval = time.Second // how soon every gateway knows a new service

// refresher remembers when the services were last read.
type refresher struct {
	mu   sync.Mutex // guards last
	last time.Time

	read    turn            // one at a time; guards the rest
	ignored map[string]bool // announced names that no service may have, said once
	owed    []string        // services whose streams Redis refused to make, sorted
}

// age is how long ago the last read began.
func (r *refresher) age() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.last)
}

func (r *refresher) begins() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = time.Now()
}

// Run does the upkeep of this process until ctx ends: health, durability, new services,
// configuration, and putting both back after Redis lost its data. It ends earlier with
// ErrProtocol alone.
func (b *Broker) Run(ctx context.Context) error {
	health := time.NewTicker(healthInterval)
	defer health.Stop()
	for ctx.Err() == nil {
		b.checkHealth(ctx)
		if b.Ready() == nil {
			b.inspectIfDue(ctx)
		}
		if b.Ready() == nil && b.common() == nil && b.services.age() >= refreshInterval {
			err := b.refresh(ctx)
			if errors.Is(err, ErrProtocol) {
				return err
			}
			if err != nil && ctx.Err() == nil {
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

// refresh re-reads what the gateways share.
func (b *Broker) refresh(ctx context.Context) error {
	there, err := b.redis.commands.Exists(ctx, configKey).Result()
	if err != nil {
		return fault("look for the configuration", err)
	}
	if there == 0 {
		b.tenants.forget()
		if err := b.load(ctx); err != nil {
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
	b.checkMemories(ctx)
	if err := b.refreshServices(ctx); err != nil {
		return err
	}
	return b.refreshPaused(ctx)
}
