package broker_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A server that forgot all connections costs one command its time, not one for
// each connection that lay idle.
func TestHalfOpenConnectionsAreFoundTogether(t *testing.T) {
	redis := redistest.Start(t)
	proxy := redis.Proxy(t)
	b := open(t, redis, func(o *broker.Options) { o.URL = proxy.URL })
	hold := func(within time.Duration) error {
		ctx, stop := context.WithTimeout(t.Context(), within)
		defer stop()
		_, _, err := b.Hold(ctx, 0, time.Minute)
		return err
	}
	proxy.Hold()
	var all sync.WaitGroup
	for range 8 { // at once, so that each has a connection of its own
		all.Go(func() {
			if err := hold(10 * time.Second); err != nil {
				t.Errorf("at first: %v", err)
			}
		})
	}
	for proxy.Links() < 8 { // they have come
		time.Sleep(time.Millisecond)
	}
	proxy.Heal()
	all.Wait()
	proxy.Forget()
	if hold(500*time.Millisecond) == nil {
		t.Error("it was answered on a connection that nobody hears")
	}
	for range 8 {
		if err := hold(10 * time.Second); err != nil {
			t.Errorf("after one was found: %v", err)
		}
	}
}
