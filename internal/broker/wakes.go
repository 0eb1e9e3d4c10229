package broker

import (
	"context"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	reconnectPause = 200 * time.Millisecond // between attempts to subscribe
)

// hearing is what Wakes calls.
type hearing struct {
	woken   func([]Wake)
	resumed func()
}

// Wakes calls woken with requests whose state changed, of those that this process
// attached to, and resumed after every (re)connection, when any may have been missed.
// What this process settles itself comes at once, other news by the subscription: so
// both may be called twice at a time. Both must return fast. Blocks until ctx ends.
func (b *Broker) Wakes(ctx context.Context, woken func([]Wake), resumed func()) error {
	h := &hearing{woken, resumed}
	b.hearing.Store(h)
	defer b.hearing.CompareAndSwap(h, nil)
	return b.subscribe(ctx, []string{wakeChannel + b.name, wakeChannel + toldSign + b.name}, func(_, payload string) {
		b.wake(h, payload)
	}, resumed)
}

func (b *Broker) wake(h *hearing, message string) {
	wakes := parseWakes(message)
	if len(wakes) == 0 {
		return
	}
	if !b.isTold() {
		for i := range wakes {
			wakes[i].Outcome = nil
		}
	}
	h.woken(wakes)
}

// wakeOwn passes on the wake-ups of this process that a script's answer brought, in
// pieces.
func (b *Broker) wakeOwn(answers ...any) {
	h := b.hearing.Load()
	if h == nil {
		return
	}
	for _, answer := range answers {
		b.wake(h, strings.Join(texts(answer), ""))
	}
}

// mayHaveWoken says that such an answer was lost, unless the script never ran.
func (b *Broker) mayHaveWoken(err error) {
	if h := b.hearing.Load(); h != nil && !unsent(err) {
		h.resumed()
	}
}

// toldSign stands before the name of a gateway that is told of outcomes with its
// wake-ups; see told in outcome.lua. In a Redis Cluster each message goes to every
// master, so there it is told of IDs alone. Where replicas have to confirm what is
// shown, a read waits for them.
const toldSign = "+"

func (b *Broker) isTold() bool { return b.redis.nodes == nil && b.Kept().Mode != Replicated }

// waiter is the name by which this process registers with a request.
func (b *Broker) waiter() string {
	if b.isTold() {
		return toldSign + b.name
	}
	return b.name
}

// Cancellations calls canceled with service and ID of each request of the services
// that ended while a worker had it, and resumed after every (re)connection. Blocks
// until ctx ends. What is sent while the connection is down is lost: such a
// worker's reply counts as late.
func (b *Broker) Cancellations(ctx context.Context, services []string, canceled func(service, id string), resumed func()) error {
	return b.Orders(ctx, services, canceled, func() {}, resumed)
}

// Orders are Cancellations and, beside them on the same connection, the order to
// drain this worker. Where that is missed, Enlist tells of it.
func (b *Broker) Orders(ctx context.Context, services []string, canceled func(service, id string), drain, resumed func()) error {
	channels := []string{drainChannel + b.name}
	for _, s := range services {
		channels = append(channels, cancelChannel+s)
	}
	return b.subscribe(ctx, channels, func(channel, payload string) {
		if channel == channels[0] {
			drain()
		} else {
			canceled(strings.TrimPrefix(channel, cancelChannel), payload)
		}
	}, resumed)
}

// subscribe keeps one subscription alive until ctx ends.
func (b *Broker) subscribe(ctx context.Context, channels []string, message func(channel, payload string), resumed func()) error {
	trouble := loop.Trouble{Log: b.log}
	for ctx.Err() == nil {
		err := b.listen(ctx, channels, message, resumed)
		switch {
		case err == nil || ctx.Err() != nil:
		case strings.HasPrefix(err.Error(), "NOPERM"):
			trouble.Warn("Redis does not let its user subscribe, so that what happens is seen up to 5 s late: ACL SETUSER … &cc:*", "error", err)
		default:
			b.log.Debug("subscription ended, subscribing again", "error", err)
		}
		loop.Rest(ctx, reconnectPause)
	}
	return nil
}

func (b *Broker) listen(ctx context.Context, channels []string, message func(channel, payload string), resumed func()) error {
	server, err := b.subscriber(ctx)
	if err != nil {
		return err
	}
	sub := server.Subscribe(ctx, channels...)
	stop := context.AfterFunc(ctx, func() { sub.Close() }) // ends a blocked Receive
	defer func() {
		stop()
		sub.Close()
	}()
	patience := pubsubSilence
	for {
		got, err := sub.ReceiveTimeout(ctx, patience)
		if isTimeout(err) && patience == pubsubSilence {
			if err := sub.Ping(ctx); err != nil {
				return err
			}
			patience = pubsubAnswer // whatever comes now may be a message that was under way
			continue
		}
		if err != nil {
			return err // or neither message nor answer: the connection is dead
		}
		patience = pubsubSilence
		switch m := got.(type) {
		case *subscription:
			if m.Count == len(channels) { // the last of them
				resumed()
			}
		case *published:
			message(m.Channel, m.Payload)
		}
	}
}
