package faults_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	firstRecorded = "one outcome, the first recorded, and one callback; a reply that Redis took in time counts, a later one never; nothing left behind"

	lanes      = 12 // races at once, each on a service of its own
	raceTime   = 90 * time.Millisecond
	raceLease  = 45 * time.Millisecond
	raceWindow = 5 * time.Millisecond // around the instant at which everything comes
	raceWay    = 2 * time.Millisecond // about how long something takes to come
)

// arena is two gateways and what both saw.
type arena struct {
	*round
	redis *redistest.Redis
	a, b  *broker.Broker

	mu       sync.Mutex // guards the rest
	outcomes map[string]int
	ended    map[broker.Status]int
	second   int // ended by a second attempt
}

// races has all that can end a request come at its deadline, within five
// milliseconds: the reply, a duplicate, a cancel, the deadline, a lapsed lease and
// the worker that takes over, with two stewards at once; and a late reply after it.
//
// Planted: no look at the deadline in succeed.lua (late replies were outcomes).
func races(r *round) {
	h := &arena{round: r, redis: redistest.Start(r), outcomes: map[string]int{}, ended: map[broker.Status]int{}}
	h.a, h.b = h.gateway(), h.gateway()
	all := of(5000, 250)
	jobs := make(chan int)
	var runners sync.WaitGroup
	for lane := range lanes {
		runners.Go(func() {
			for range jobs {
				h.race(fmt.Sprint("race-", lane))
			}
		})
	}
	for n := range all {
		jobs <- n
	}
	close(jobs)
	runners.Wait()
	h.leftBehind()
	told := map[string]int{}
	intents, err := h.redis.Client.XRange(h.Context(), "cc:{0}:callbacks", "-", "+").Result()
	if err != nil {
		h.Fatal(err)
	}
	for _, i := range intents {
		told[fmt.Sprint(i.Values["id"])]++
	}
	for id, n := range h.outcomes {
		if n != 1 || told[id] != 1 {
			h.Errorf("%s has %d outcomes and %d callbacks", id, n, told[id])
		}
	}
	if len(h.outcomes) != all || len(told) != all {
		h.Errorf("%d requests with an outcome, %d with a callback, of %d", len(h.outcomes), len(told), all)
	}
	for _, s := range []broker.Status{broker.Succeeded, broker.TimedOut, broker.Canceled} {
		if h.ended[s] == 0 {
			h.Errorf("no race ended %s: this shows nothing of it", s)
		}
	}
	if h.second == 0 {
		h.Error("no race was won by a second attempt: this shows nothing of leases")
	}
	r.finds("%d races: %d succeeded, %d timed out, %d canceled; %d by a second attempt", all, h.ended[broker.Succeeded], h.ended[broker.TimedOut], h.ended[broker.Canceled], h.second)
}

func (h *arena) gateway() *broker.Broker {
	h.Helper()
	services := map[string]broker.ServiceConfig{}
	for lane := range lanes {
		services[fmt.Sprint("race-", lane)] = broker.ServiceConfig{Timeout: raceTime, Lease: raceLease, MaxAttempts: 2}
	}
	b, err := broker.Open(h.Context(), broker.Options{URL: h.redis.URL, Services: services, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { b.Close() })
	b.Observe(func(f broker.Fact) {
		if f.Kind == "outcome" {
			h.mu.Lock()
			h.outcomes[f.ID]++
			h.mu.Unlock()
		}
	})
	return b
}

// sent is a final reply on the reply stream.
type sent struct {
	entry   string
	attempt int
	body    string
}

// at is when Redis took it.
func (s sent) at() time.Time {
	ms, _ := strconv.ParseInt(strings.Split(s.entry, "-")[0], 10, 64)
	return time.UnixMilli(ms)
}

// before tells which of two Redis took first.
func (s sent) before(other sent) bool {
	if !s.at().Equal(other.at()) {
		return s.at().Before(other.at())
	}
	n, _ := strconv.Atoi(strings.Split(s.entry, "-")[1])
	m, _ := strconv.Atoi(strings.Split(other.entry, "-")[1])
	return n < m
}

// race is one request and all that can end it.
func (h *arena) race(service string) {
	ctx := h.Context()
	r, _, err := h.a.Submit(ctx, broker.Submission{
		Tenant: broker.DefaultTenant, Service: service, Body: []byte("x"),
		Callback: &broker.Callback{URL: "https://example.com/", Events: []string{"succeeded", "failed", "timed_out", "canceled"}},
	})
	if err != nil {
		h.Errorf("submit: %v", err)
		return
	}
	near := func() time.Time { return r.Deadline.Add(h.pause(2*raceWindow) - raceWindow - raceWay) }
	<-time.After(time.Until(near().Add(-raceLease - raceWay))) // so that the lease lapses then, too
	got, err := h.b.Claim(ctx, "first", []string{service}, 1, 100*time.Millisecond)
	if err != nil || len(got) > 1 || len(got) == 1 && got[0].ID != r.ID.String() {
		h.Errorf("claim: %v, %v", got, err)
		return
	}
	var (
		actors   sync.WaitGroup
		mu       sync.Mutex // guards replies
		replies  []sent
		canceled = errors.New("nobody tried")
	)
	act := func(do func()) {
		at := near()
		actors.Go(func() {
			<-time.After(time.Until(at))
			do()
		})
	}
	reply := func(d broker.Delivery, body string) {
		entry, err := h.redis.Client.Do(ctx, "XADD", d.ReplyTo, "*", "token", d.Token, "type", "final", "body", body).Text()
		if err != nil {
			h.Errorf("reply: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		replies = append(replies, sent{entry, d.Attempt, body})
	}
	if len(got) == 1 { // else it was too late to claim it
		for n := range h.draw(3) {
			act(func() { reply(got[0], fmt.Sprint("reply ", n)) })
		}
	}
	if h.draw(3) == 0 {
		act(func() { _, canceled = h.a.Cancel(ctx, r.ID) })
	}
	for _, b := range []*broker.Broker{h.a, h.b} {
		act(func() { h.step("settle", func() error { _, _, err := b.Settle(ctx, 0); return err }) })
		act(func() { h.step("decide", func() error { _, err := b.Decide(ctx, 0); return err }) })
		act(func() { h.step("lapse", func() error { _, err := b.Lapse(ctx, 0, service); return err }) })
	}
	act(func() {
		again, err := h.a.Claim(ctx, "second", []string{service}, 1, raceWindow)
		if err != nil {
			h.Errorf("claim: %v", err)
		}
		for _, d := range again {
			reply(d, "of the second")
		}
	})
	actors.Wait()
	last := h.outcome(ctx, r, service)
	h.judge(r, last, replies, canceled)
	if len(got) == 1 {
		reply(got[0], "late")
		h.step("settle", func() error { _, _, err := h.a.Settle(ctx, 0); return err })
		if now, err := h.b.Status(ctx, r.ID); err != nil || now.Status != last.Status || !now.Finished.Equal(last.Finished) || bodyOf(now) != bodyOf(last) {
			h.Errorf("%s: %s became %s, %v by a late reply", r.ID, last.Status, now.Status, err)
		}
	}
}

func (h *arena) step(what string, do func() error) {
	if err := do(); err != nil && !errors.Is(err, broker.ErrUnavailable) { // too many at once: the next one does it
		h.Errorf("%s: %v", what, err)
	}
}

// outcome has the stewards go on until there is one; both gateways show the same.
func (h *arena) outcome(ctx context.Context, r broker.Record, service string) broker.Record {
	for ctx.Err() == nil {
		h.step("decide", func() error {
			d, err := h.a.Decide(ctx, 0)
			if d.Settle {
				_, _, err = h.b.Settle(ctx, 0)
			}
			return err
		})
		one, err := h.a.Status(ctx, r.ID)
		if err != nil {
			h.Errorf("%s: %v", r.ID, err)
			return one
		}
		if one.Status.Terminal() {
			other, err := h.b.Status(ctx, r.ID)
			if err != nil || other.Status != one.Status || !other.Finished.Equal(one.Finished) || bodyOf(other) != bodyOf(one) {
				h.Errorf("%s: %s and %s, %v", r.ID, one.Status, other.Status, err)
			}
			return one
		}
		<-time.After(time.Millisecond) // until the next round of upkeep
	}
	return r
}

func bodyOf(r broker.Record) string {
	if r.Reply == nil {
		return ""
	}
	return string(r.Reply.Body)
}

// judge holds the outcome to what Redis took when.
func (h *arena) judge(r, last broker.Record, replies []sent, canceled error) {
	h.mu.Lock()
	h.ended[last.Status]++
	if last.Attempt > 1 && last.Status == broker.Succeeded {
		h.second++
	}
	h.mu.Unlock()
	var first *sent // reply of the last attempt that counts, if it was settled before the decision
	for _, s := range replies {
		if s.attempt == last.Attempt && !s.at().After(r.Deadline) && (first == nil || s.before(*first)) {
			first = &s
		}
	}
	said := fmt.Sprintf("%s is %s in attempt %d with %q; deadline %s, finished %s; cancel: %v; replies %v",
		r.ID, last.Status, last.Attempt, bodyOf(last), r.Deadline.Format(stamp), last.Finished.Format(stamp), canceled, replies)
	if (canceled == nil) != (last.Status == broker.Canceled) {
		h.Errorf("a cancel that was told otherwise than it went: %s", said)
	}
	switch last.Status {
	case broker.Succeeded:
		if first == nil || bodyOf(last) != first.body {
			h.Errorf("a reply that was late, or not the first: %s", said)
		}
	case broker.TimedOut:
		if first != nil && first.at().Before(r.Deadline) {
			h.Errorf("a reply that came in time was lost: %s", said)
		}
		if last.Finished.Before(r.Deadline) {
			h.Errorf("it timed out before its time: %s", said)
		}
	case broker.Canceled:
	default:
		h.Errorf("no outcome of this race: %s", said)
	}
	if len(last.Attempts) == 1 { // the lease lapsed: no reply of the first attempt was in time
		over := last.Attempts[0].Started.Add(raceLease)
		for _, s := range replies {
			if s.attempt == 1 && s.at().Before(over.Add(-2*time.Millisecond)) { // idle times are rounded
				h.Errorf("a reply before the end of the lease %s was lost: %s", over.Format(stamp), said)
			}
		}
	}
}

const stamp = "05.000"

// leftBehind wants no entry, no reply and no decision left, and a time to live on
// each record.
func (h *arena) leftBehind() {
	ctx := h.Context()
	h.step("settle", func() error { _, _, err := h.a.Settle(ctx, 0); return err })
	for _, key := range h.redis.Keys(h) {
		var n int64
		var err error
		switch {
		case strings.Contains(key, ":request:"):
			var left time.Duration
			if left, err = h.redis.Client.PTTL(ctx, key).Result(); left <= 0 {
				n = 1
			}
		case strings.Contains(key, ":queue:"), strings.HasSuffix(key, ":replies"):
			n, err = h.redis.Client.XLen(ctx, key).Result()
		case strings.HasSuffix(key, ":due"), strings.Contains(key, ":waiting:"), strings.Contains(key, ":listing:open"):
			n, err = h.redis.Client.ZCard(ctx, key).Result()
		}
		if n > 0 || err != nil {
			h.Errorf("%s: %d left behind, %v", key, n, err)
		}
	}
}
