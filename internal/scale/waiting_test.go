package scale_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/watch"
)

// crowd waits for requests that have no reply, each for one of its own.
type crowd struct {
	site *site
	hub  *watch.Hub
	ctx  context.Context
	all  sync.WaitGroup
	n    int
}

func (s *site) waiting(t *testing.T) *crowd {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	c := &crowd{site: s, hub: watch.New(s.broker, slog.New(slog.DiscardHandler)), ctx: ctx}
	s.services = s.services[:1] // nobody answers the other
	c.all.Go(func() { c.hub.Run(ctx) })
	t.Cleanup(func() { c.hub.Drain(); c.all.Wait() })
	t.Cleanup(stop)
	return c
}

// grow makes n of them.
func (c *crowd) grow(n int) {
	c.site.Helper()
	ids := make([]correlation.ID, n-c.n)
	c.site.together(len(ids), func(i int) error {
		r, _, err := c.site.broker.Submit(c.site.Context(), broker.Submission{Tenant: broker.DefaultTenant, Service: "late", Body: []byte("x")})
		ids[i] = r.ID
		return err
	})
	for _, id := range ids {
		c.all.Go(func() {
			if _, err := c.hub.Wait(c.ctx, id, time.Hour, func(broker.Record) bool { return false }); err != nil && c.ctx.Err() == nil {
				c.site.Error(err)
			}
		})
	}
	c.n = n
	for waiters, _ := c.hub.Waiters(); waiters < n; waiters, _ = c.hub.Waiters() {
		<-time.After(10 * time.Millisecond)
	}
}

// reread is what waiting itself costs: all that is waited for is read again within
// five seconds.
func (c *crowd) reread() string {
	const lasts = 6 * time.Second
	if !*full {
		return ""
	}
	spent := c.site.once(1, func() { <-time.After(lasts) })
	return fmt.Sprintf("waiting itself: %.0f µs/s", spent.cpu/lasts.Seconds())
}
