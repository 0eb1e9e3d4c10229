package broker

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/loop"
)

var announceScript = newPlainScript("announce")

// Delivery is a work entry that a worker claimed.
type Delivery struct {
	ID          string
	Entry       string // on the stream of its service
	Token       string // opaque; goes back with every reply
	ReplyTo     string
	Service     string
	Attempt     int // 1 for the first
	Deadline    time.Time
	Lease       time.Duration
	ContentType string
	Traceparent string
	Headers     map[string]string // forwarded from the client, lower-case names
	Body        []byte
}

// Announcement is what a worker says of a service it answers.
type Announcement struct {
	Lease     time.Duration // how long a silent worker keeps a claim; 0 leaves what holds
	Cacheable bool          // it says how long its replies may be cached
}

// Announce makes services known to this process at once and to all gateways
// within a second, and creates their streams. A lease is written over what was
// announced before.
func (b *Broker) Announce(ctx context.Context, services map[string]Announcement) error {
	values := make(map[string]string, len(services))
	var over []string
	for name, a := range services {
		values[name] = encodeAnnounced(a)
		if a.Lease > 0 {
			over = append(over, name)
		}
	}
	if err := b.announce(ctx, values, over); err != nil {
		return err
	}
	for name, a := range services {
		if a.Cacheable {
			if err := b.redis.commands.SAdd(ctx, cacheableKey, name).Err(); err != nil {
				return fault("announce services", err)
			}
		}
	}
	if err := b.createStreams(ctx, b.Partitions(), slices.Collect(maps.Keys(values))); err != nil {
		return err
	}
	return b.refreshServices(ctx)
}

// announce writes what is known of services, over what is there only for those
// that over names.
func (b *Broker) announce(ctx context.Context, values map[string]string, over []string) error {
	if len(values) == 0 {
		return nil
	}
	args := make([]any, 0, 3*len(values))
	for name, value := range values {
		args = append(args, name, value, flag(slices.Contains(over, name)))
	}
	_, err := announceScript.run(ctx, b.redis, partition{}, []string{servicesKey}, args...)
	return fault("announce services", err)
}

// Claim takes up to n work entries of the services, waiting up to block (at
// most 2 s) for the first. It returns none and no error when there are none,
// and makes the groups again where Redis lost them. A cancelled ctx does not
// interrupt the wait.
func (b *Broker) Claim(ctx context.Context, consumer string, services []string, n int, block time.Duration) ([]Delivery, error) {
	var streams []string
	for _, p := range b.parts() {
		for _, s := range services {
			streams = append(streams, p.queue(s))
		}
	}
	// COUNT holds for each stream: with fewer slots than streams, a random
	// choice is asked, so that none starves and no more is claimed than fits.
	rand.Shuffle(len(streams), func(i, j int) { streams[i], streams[j] = streams[j], streams[i] })
	if b.redis.nodes != nil {
		return b.claimAround(ctx, consumer, services, streams, n, block)
	}
	if len(streams) > n {
		if got, err := b.claimWithout(ctx, consumer, nil, streams, n); len(got) > 0 || err != nil {
			return got, err
		}
		streams = streams[:n]
		block = min(block, 100*time.Millisecond)
	}
	return b.claim(ctx, consumer, services, streams, max(1, n/len(streams)), block)
}

// claimWithout looks into the streams in turn, without waiting.
func (b *Broker) claimWithout(ctx context.Context, consumer string, services, streams []string, n int) (got []Delivery, err error) {
	for len(streams) > 0 && len(got) < n {
		few := streams[:min(n-len(got), len(streams))]
		streams = streams[len(few):]
		more, err := b.claim(ctx, consumer, services, few, max(1, (n-len(got))/len(few)), -1)
		if err != nil {
			if len(got) > 0 {
				return got, nil
			}
			return nil, err
		}
		got = append(got, more...)
	}
	return got, nil
}

func (b *Broker) claim(ctx context.Context, consumer string, services, streams []string, each int, block time.Duration) ([]Delivery, error) {
	deliveries, err := b.readWork(ctx, consumer, streams, each, block)
	if lostGroup(err) {
		again := map[string]Announcement{}
		for _, s := range services {
			again[s] = Announcement{}
		}
		return nil, b.Announce(ctx, again)
	}
	if err != nil {
		return nil, fault("claim work", err)
	}
	return deliveries, nil
}

// readWork reads what no worker was given yet. An error that Redis answers with is left
// to the library, which knows what one says of the connection: it is asked again.
func (b *Broker) readWork(ctx context.Context, consumer string, streams []string, each int, block time.Duration) ([]Delivery, error) {
	if b.redis.nodes == nil {
		read, err := b.readOnto(ctx, consumer, streams, each, block)
		if err != nil || read.said == "" {
			return read.found, err
		}
	}
	found, err := b.readGroup(ctx, workersGroup, consumer, streams, each, block)
	var deliveries []Delivery
	for _, stream := range found {
		for _, entry := range stream.Messages {
			d := delivery(entry.Values)
			d.Entry = entry.ID
			deliveries = append(deliveries, d)
		}
	}
	return deliveries, err
}

// readOnto has a single server's answer read by deliveries.
func (b *Broker) readOnto(ctx context.Context, consumer string, streams []string, each int, block time.Duration) (*deliveries, error) {
	ctx, stop := patience(ctx, block)
	defer stop()
	args := make([]any, 0, 9+2*len(streams))
	args = append(args, "xreadgroup", "group", workersGroup, consumer, "count", each)
	if block >= 0 {
		args = append(args, "block", min(max(block, time.Millisecond), longestBlock).Milliseconds())
	}
	args = append(args, "streams")
	for _, s := range streams {
		args = append(args, s)
	}
	for range streams {
		args = append(args, ">")
	}
	read := &deliveries{}
	err := b.redis.blocking.Process(ctx, redis.NewRawWriteToCmd(ctx, read, args...))
	if err == nil {
		err = read.end()
	}
	return read, err
}

func delivery(values map[string]any) Delivery {
	text := func(name string) string { s, _ := values[name].(string); return s }
	return Delivery{
		ID: text("id"), Token: text("token"), ReplyTo: text("reply_to"), Service: text("service"),
		Attempt: int(number(text("attempt"))), Deadline: millis(text("deadline")), Lease: msec(text("lease")),
		ContentType: text("content_type"), Traceparent: text("traceparent"), Body: []byte(text("body")),
		Headers: decodeHeaders([]byte(text("headers"))),
	}
}

// WorkerReply is one reply of a worker to a delivery.
type WorkerReply struct {
	Type        string // progress, partial, final, failed, retry or heartbeat
	ContentType string
	Body        []byte
	StatusCode  int               // of the HTTP answer; 0: 200 for final, 500 for failed
	Headers     map[string]string // of the HTTP answer, lower-case names; nil for none
	Seq         int               // 1, 2 … within the attempt, so that a repeat is dropped; 0 for none
	Delay       time.Duration     // of a retry; 0 lets the gateway choose, up to 1 ms means at once
	Error       *Error            // of failed and retry

	// CacheTTL is for how long a final reply answers requests with the same content
	// at once: 0 leaves it to the service, below 0 means not at all.
	CacheTTL time.Duration
}

// xadd is the command that puts the reply on its stream.
func (r WorkerReply) xadd(stream, token string) []any {
	return r.fields(append(make([]any, 0, 3+replyFields), "xadd", stream, "*"), token)
}

// replyFields is how many names and values most replies have at most.
const replyFields = 14

// fields appends those of the reply on its stream, names and values.
func (r WorkerReply) fields(values []any, token string) []any {
	values = append(values, "token", token, "type", r.Type)
	add := func(name, value string) {
		if value != "" {
			values = append(values, name, value)
		}
	}
	add("content_type", r.ContentType)
	if r.StatusCode > 0 {
		add("status_code", strconv.Itoa(r.StatusCode))
	}
	if len(r.Headers) > 0 {
		if encoded, err := json.Marshal(r.Headers); err == nil { // a map of strings always can be
			add("headers", string(encoded))
		}
	}
	if r.Seq > 0 {
		add("seq", strconv.Itoa(r.Seq))
	}
	if r.Delay > 0 {
		add("delay", strconv.FormatInt(max(1, r.Delay.Milliseconds()), 10))
	}
	if r.CacheTTL != 0 {
		add("cache_ttl", strconv.FormatInt(max(0, r.CacheTTL.Milliseconds()), 10))
	}
	if r.Error != nil {
		add("error", r.Error.Message)
		if r.Error.Code != "" {
			add("error_code", r.Error.Code)
		}
	}
	return append(values, "body", r.Body)
}

// outgoing is a reply on its way through the batch.
type outgoing struct {
	to   string
	xadd []any
}

const (
	sendPause  = 250 * time.Millisecond // between attempts while Redis is away
	replyFrame = 200                    // bytes of a reply on the wire beside its body, about
)

// Send puts a reply on the reply stream. It tries again while Redis is away or
// full, until ctx ends; a reply that arrives twice does no harm. Concurrent
// sends share a pipeline.
func (b *Broker) Send(ctx context.Context, d Delivery, r WorkerReply) error {
	out, size := outgoing{d.ReplyTo, r.xadd(d.ReplyTo, d.Token)}, len(r.Body)+replyFrame
	_, _, err := b.sends.do(ctx, out, size)
	return b.insist(ctx, out, size, err)
}

// Post is Send for those who don't wait: it tries until ctx ends or until is over, and
// then calls sent, once. sent must not block: others wait behind it.
func (b *Broker) Post(ctx context.Context, until time.Time, d Delivery, r WorkerReply, sent func(error)) {
	out, size := outgoing{d.ReplyTo, r.xadd(d.ReplyTo, d.Token)}, len(r.Body)+replyFrame
	b.sends.post(ctx, out, size, func(_ struct{}, err error) {
		if err == nil || errors.Is(err, ErrClosed) {
			sent(err)
			return
		}
		go func() {
			ctx, stop := context.WithDeadline(ctx, until)
			defer stop()
			sent(b.insist(ctx, out, size, err))
		}()
	})
}

// insist sends a reply that was not sent for the reason err, until it is.
func (b *Broker) insist(ctx context.Context, out outgoing, size int, err error) error {
	for err != nil && !errors.Is(err, ErrClosed) {
		if !loop.Rest(ctx, sendPause) {
			return fault("send a reply", err)
		}
		_, _, err = b.sends.do(ctx, out, size)
	}
	return err
}

// sendReplies puts a batch of replies on their streams.
func (b *Broker) sendReplies(calls []*call[outgoing, struct{}]) {
	ctx, stop := context.WithTimeout(context.Background(), commandTimeout)
	defer stop()
	pipe := b.redis.commands.Pipeline()
	sent := make([]*redis.StringCmd, len(calls))
	for i, c := range calls {
		sent[i] = redis.NewStringCmd(ctx, c.ask.xadd...)
		_ = pipe.Process(ctx, sent[i])
	}
	_, _ = pipe.Exec(ctx) // each answer has its own error
	for i, c := range calls {
		c.err = fault("send a reply", sent[i].Err())
	}
}
