package broker

import (
	"context"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	reconnectPause = 200 * time.Millisecond // between attempts to subscribe
)

// Wakes calls woken with IDs whose state changed, for requests that this
// process attached to, and resumed after every (re)connection, when any may
// have been missed. Both must return fast. Blocks until ctx ends.
func (b *Broker) Wakes(ctx context.Context, woken func([]correlation.ID), resumed func()) error {
	return b.subscribe(ctx, []string{wakeChannel + b.name}, func(payload string) {
		var ids []correlation.ID
		for text := range strings.FieldsSeq(payload) {
			if id, err := correlation.Parse(text); err == nil {
				ids = append(ids, id)
			}
		}
		woken(ids)
	}, resumed)
}

// Cancellations calls canceled with the ID of each request of the services
// that ended while a worker had it, and resumed after every (re)connection. Blocks
// until ctx ends. What is sent while the connection is down is lost: such a
// worker's reply counts as late.
func (b *Broker) Cancellations(ctx context.Context, services []string, canceled func(id string), resumed func()) error {
	channels := make([]string, len(services))
	for i, s := range services {
		channels[i] = cancelChannel + s
	}
	return b.subscribe(ctx, channels, canceled, resumed)
}

// subscribe keeps one subscription alive until ctx ends.
func (b *Broker) subscribe(ctx context.Context, channels []string, message func(payload string), resumed func()) error {
	for ctx.Err() == nil {
		if err := b.listen(ctx, channels, message, resumed); err != nil && ctx.Err() == nil {
			b.log.Debug("subscription ended, subscribing again", "error", err)
		}
		loop.Rest(ctx, reconnectPause)
	}
	return nil
}

func (b *Broker) listen(ctx context.Context, channels []string, message func(string), resumed func()) error {
	sub := b.redis.pubsub.Subscribe(ctx, channels...)
	stop := context.AfterFunc(ctx, func() { sub.Close() }) // ends a blocked Receive
	defer func() {
		stop()
		sub.Close()
	}()
	for {
		got, err := sub.ReceiveTimeout(ctx, pubsubSilence)
		if err != nil {
			if isTimeout(err) {
				if err := sub.Ping(ctx); err != nil {
					return err
				}
				if _, err := sub.ReceiveTimeout(ctx, pubsubSilence); err != nil {
					return err // neither message nor answer: the connection is dead
				}
				continue
			}
			return err
		}
		switch m := got.(type) {
		case *subscription:
			resumed()
		case *published:
			message(m.Payload)
		}
	}
}
