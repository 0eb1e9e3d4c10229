package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

const (
	// intentLease is after how long an intent that nobody settled, and of which nobody
	// said that it is still told of, is handed out again. Most are settled in a few ms.
	intentLease  = 10 * time.Second
	reissueBatch = 64
	// settledLinger is for how long an intent that is settled waits for others: nobody
	// waits for it, and to begin a script costs more than to settle one intent.
	settledLinger = 5 * time.Millisecond
)

// KeepIntentsEvery is how often Keep says of an intent that it is still told of, so that
// one that began between two rounds has two of them before its lease ends.
const KeepIntentsEvery = intentLease / 3

var (
	deliveredScript = newPlainScript("delivered")
	keepScript      = newPlainScript("keep")
	postponeScript  = newPlainScript("postpone")
	reissueScript   = newPlainScript("reissue")
)

// Intent is a callback that is owed. It was stored by the operation that
// stored the event it tells of.
type Intent struct {
	Partition int
	Entry     string // its place on the stream, or in due; only the broker reads it
	ID        correlation.ID
	Type      string // succeeded, failed, timed_out, canceled or progress
	Number    int    // of the event
	Attempt   int    // 1 for the first delivery

	record *Record // what it tells of, where that came with it
}

// ClaimIntents takes up to n owed callbacks of any partition for this process,
// waiting up to block (at most 2 s) for the first. One that is neither
// Delivered nor Postponed within ten seconds, nor Kept, is handed out again.
func (b *Broker) ClaimIntents(ctx context.Context, n int, block time.Duration) ([]Intent, error) {
	parts := rand.Perm(b.Partitions())
	parts = parts[:min(len(parts), max(n, 1))] // COUNT holds for each stream
	streams := make([]string, len(parts))
	home := make(map[string]int, len(parts))
	for i, p := range parts {
		streams[i] = b.part(p).callbacks()
		home[streams[i]] = p
	}
	found, err := b.readGroup(ctx, deliverersGroup, b.name, streams, max(1, n/len(parts)), max(block, time.Millisecond))
	switch {
	case lostGroup(err):
		return nil, b.createDeliverers(ctx)
	case err != nil:
		return nil, fault("claim callbacks", err)
	}
	var intents []Intent
	for _, stream := range found {
		for _, entry := range stream.Messages {
			i, err := intent(home[stream.Stream], entry)
			if err != nil { // never written by a gateway: set it aside rather than meet it for ever
				b.log.Error("a callback intent can't be read and is dropped", "entry", entry.ID, "error", err)
				b.redis.commands.XAck(ctx, stream.Stream, deliverersGroup, entry.ID)
				b.redis.commands.XDel(ctx, stream.Stream, entry.ID)
				continue
			}
			intents = append(intents, i)
		}
	}
	return intents, nil
}

func intent(p int, entry redis.XMessage) (Intent, error) {
	text := func(name string) string { s, _ := entry.Values[name].(string); return s }
	id, err := correlation.Parse(text("id"))
	if err != nil {
		return Intent{}, fmt.Errorf("read a callback intent: %w", err)
	}
	return Intent{
		Partition: p, Entry: entry.ID, ID: id, Type: text("type"),
		Number: int(number(text("number"))), Attempt: int(number(text("attempt"))),
	}, nil
}

func (b *Broker) createDeliverers(ctx context.Context) error {
	var streams []string
	for _, p := range b.parts() {
		streams = append(streams, p.callbacks())
	}
	answers, err := b.createGroups(ctx, streams, deliverersGroup)
	if err != nil {
		return err
	}
	return fault("create the callback streams", errors.Join(answers...))
}

// Delivered settles an intent: told, or given up. Once none of a request is
// open, its record is forgotten when its retention ends. Intents that are settled
// together share a script.
func (b *Broker) Delivered(ctx context.Context, i Intent) error {
	_, _, err := b.settled.do(ctx, i, 100)
	return err
}

// sendDelivered settles a batch, each partition by one script.
func (b *Broker) sendDelivered(calls []*call[Intent, struct{}]) {
	ctx, stop := context.WithTimeout(context.Background(), commandTimeout)
	defer stop()
	homes, order := map[partition][]*call[Intent, struct{}]{}, []partition{}
	for _, c := range calls {
		p := b.part(c.ask.Partition)
		if homes[p] == nil {
			order = append(order, p)
		}
		homes[p] = append(homes[p], c)
	}
	for _, p := range order {
		there := homes[p]
		args := make([]any, 0, 2*len(there))
		for _, c := range there {
			args = append(args, c.ask.Entry, c.ask.ID.String())
		}
		_, err := deliveredScript.run(ctx, b.redis, p, []string{p.callbacks(), p.due()}, args...)
		for _, c := range there {
			c.err = fault("settle a callback", err)
		}
	}
}

// Keep says that this process still delivers an intent, which is nobody else's for ten
// seconds more. kept is false where it was settled, or handed out again before.
func (b *Broker) Keep(ctx context.Context, i Intent) (kept bool, err error) {
	p := b.part(i.Partition)
	raw, err := keepScript.run(ctx, b.redis, p, []string{p.callbacks(), p.due()}, i.Entry, b.name, intentLease.Milliseconds())
	return raw == int64(1), fault("keep a callback", err)
}

// Postpone hands the intent out again after delay, with the next attempt.
func (b *Broker) Postpone(ctx context.Context, i Intent, delay time.Duration) error {
	p := b.part(i.Partition)
	_, err := postponeScript.run(ctx, b.redis, p, []string{p.callbacks(), p.due()},
		i.Entry, i.ID.String(), i.Type, i.Number, i.Attempt+1, delay.Milliseconds())
	return fault("postpone a callback", err)
}

// Reissue hands out again what a dead gateway had claimed in a partition.
func (b *Broker) Reissue(ctx context.Context, p int) (int, error) {
	part := b.part(p)
	raw, err := reissueScript.run(ctx, b.redis, part, []string{part.callbacks()}, intentLease.Milliseconds(), reissueBatch)
	if err != nil {
		return 0, fault("hand callbacks out again", err)
	}
	n, _ := raw.(int64)
	if n < 0 {
		return 0, b.createDeliverers(ctx)
	}
	return int(n), nil
}
