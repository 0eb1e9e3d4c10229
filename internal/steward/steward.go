// Package steward does the upkeep of the partitions: it settles replies, fires
// what is due, takes work back from silent workers.
//
//	s := steward.New(b, logger)
//	err := s.Run(ctx) // until ctx ends; then hands its partitions over
//
// One process at a time does a partition, by a short lease; the others try when
// it ends. After a crash the next settle is at most two seconds away, after a
// drain it is at once. Two stewards at once do no harm, since every script is
// compare-and-set: the lease saves work, it does not guard anything. All processes
// have the same number of partitions, give or take one: see share.go.
//
// The order matters and is kept by the scripts too: replies first, then what is
// due. A reply that Redis took before a deadline counts, however late it is
// read.
package steward

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	lease        = 1500 * time.Millisecond
	renewal      = 500 * time.Millisecond
	replyBlock   = time.Second            // of one wait for replies; bounds how long a drain takes
	decideEvery  = 200 * time.Millisecond // how late a clock may fire
	lapseEvery   = time.Second
	regulateEach = time.Second // how soon a limit follows the workers
	sweepEvery   = 5 * time.Second
	pruneEvery   = 5 * time.Second
	pursueEvery  = 200 * time.Millisecond // how soon a job begins, and goes on while a queue is full
	tidyEvery    = time.Minute
	retireAfter  = time.Hour              // of silence, which no living worker or gateway keeps
	troublePause = 250 * time.Millisecond // after an error of Redis
	settlesDown  = 2 * time.Second        // after an outage, in which no worker could say that it lives
	handover     = 2 * time.Second        // to give the leases up in
	spread       = 100 * time.Millisecond // of those who wait for one lease
	rescan       = 5 * time.Second        // how soon a partition that was added gets its steward
)

// Steward does the upkeep of the partitions that this process holds.
type Steward struct {
	broker  *broker.Broker
	log     *slog.Logger
	share   *share
	trouble loop.Trouble

	mu    sync.Mutex            // guards the rest
	freed map[int]chan struct{} // by partition: somebody gave it up; capacity 1, never closed
	ill   map[int]time.Time     // by partition: when its Redis was last seen unavailable or full
}

// New makes a steward; Run starts it.
func New(b *broker.Broker, log *slog.Logger) *Steward {
	return &Steward{broker: b, log: log, share: newShare(), trouble: loop.Trouble{Log: log}, freed: map[int]chan struct{}{}, ill: map[int]time.Time{}}
}

// Held is how many partitions this process does.
func (s *Steward) Held() int { return s.share.held() }

// Run competes for every partition until ctx ends, then finishes what it is
// at and hands over.
func (s *Steward) Run(ctx context.Context) error {
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var all sync.WaitGroup
	all.Go(func() { s.broker.Released(working, s.announceFreed) })
	s.divide(ctx)
	var dividing sync.WaitGroup
	dividing.Go(func() { s.keepDividing(ctx) })
	started := 0
	for {
		for ; started < s.broker.Partitions(); started++ { // partitions are only ever added
			p, freed := started, s.freedChannel(started)
			all.Go(func() { s.compete(working, p, freed) })
		}
		if !loop.Rest(ctx, rescan) {
			break
		}
	}
	dividing.Wait()
	s.leave(ctx)
	stop()
	all.Wait()
	return nil
}

// compete waits for the lease of a partition, and does its upkeep while it has it.
func (s *Steward) compete(ctx context.Context, p int, freed <-chan struct{}) {
	for ctx.Err() == nil {
		reserved := s.share.turn(ctx)
		held, left, err := s.broker.Hold(ctx, p, lease)
		if !held {
			s.share.cancel(reserved)
		}
		switch {
		case err != nil:
			s.complain(ctx, "hold a partition", p, err)
			loop.Rest(ctx, troublePause)
		case held:
			holding, give := context.WithCancel(ctx)
			s.share.take(p, reserved, give)
			s.tend(holding, p)
			s.share.drop(p)
			give()
		default: // a crowd wakes up when a lease ends: spread it
			t := time.NewTimer(max(left, 0) + loop.Jitter(s.broker.Name(), spread))
			select {
			case <-ctx.Done():
			case <-freed:
			case <-t.C:
			}
			t.Stop()
		}
	}
}

// tend does the upkeep of a partition until ctx ends or the lease is lost. The others
// hear of it before the loops have ended, one of which may wait for a reply: that two
// do a partition for a moment does no harm, and that nobody does it for one would.
func (s *Steward) tend(ctx context.Context, p int) {
	holding, lost := context.WithCancel(ctx)
	defer lost()
	var loops sync.WaitGroup
	loops.Go(func() { s.settle(holding, p) })
	loops.Go(func() { s.every(holding, p, decideEvery, "decide what is due", s.decide) })
	loops.Go(func() { s.every(holding, p, lapseEvery, "look for lapsed leases", s.lapse) })
	loops.Go(func() { s.every(holding, p, regulateEach, "release what waits", s.regulate) })
	loops.Go(func() { s.every(holding, p, sweepEvery, "sweep the queues", s.sweep()) })
	loops.Go(func() { s.every(holding, p, pruneEvery, "prune the listing", s.prune()) })
	loops.Go(func() { s.every(holding, p, pursueEvery, "redrive dead letters", s.pursue) })
	loops.Go(func() { s.every(holding, p, tidyEvery, "tidy up", s.tidy) })
	s.renew(holding, p)
	lost()
	s.share.drop(p)
	defer loops.Wait()
	handing, stop := context.WithTimeout(context.WithoutCancel(ctx), handover)
	defer stop()
	if err := s.broker.HandOver(handing, p); err != nil {
		s.complain(ctx, "hand a partition over", p, err)
	}
}

// renew keeps the lease, and returns when another process has it.
func (s *Steward) renew(ctx context.Context, p int) {
	for loop.Rest(ctx, renewal) {
		held, _, err := s.broker.Hold(ctx, p, lease)
		if err != nil {
			s.complain(ctx, "renew the lease of a partition", p, err)
			continue // the others can't take it either, while Redis is away
		}
		if !held {
			s.log.Info("another gateway does this partition now", "partition", p)
			return
		}
	}
}

// settle applies replies as they come: each at once while they are rare, and else as many
// as came together.
func (s *Steward) settle(ctx context.Context, p int) {
	for ctx.Err() == nil {
		asked := time.Now()
		if _, _, err := s.broker.SettleNext(ctx, p, replyBlock); err != nil {
			s.complain(ctx, "settle replies", p, err)
			loop.Rest(ctx, troublePause-time.Since(asked)) // what timed out has rested
		}
	}
}

func (s *Steward) settleAll(ctx context.Context, p int) error {
	for ctx.Err() == nil {
		_, more, err := s.broker.Settle(ctx, p)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// decide fires what is due, settling first where that is called for.
func (s *Steward) decide(ctx context.Context, p int) error {
	for ctx.Err() == nil {
		d, err := s.broker.Decide(ctx, p)
		if err != nil {
			return err
		}
		if d.Settle {
			if err := s.settleAll(ctx, p); err != nil {
				return err
			}
			continue
		}
		if !d.More {
			return nil
		}
	}
	return nil
}

// recovering tells whether the Redis of a partition was away or full just now. Nobody's
// lease lapses then before the live workers had time to be heard: their silence was not
// their own.
func (s *Steward) recovering(p int) bool {
	full := s.broker.Full(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if full {
		s.ill[p] = time.Now()
	}
	return time.Since(s.ill[p]) < settlesDown
}

// tell logs what an operator should know of workers, of one service. A line stands
// for all that is alike: a worker that dies may take thousands of requests along.
func (s *Steward) tell(service string, facts []broker.Fact) {
	for kind, what := range map[string]string{
		"lapse": "workers fell silent; their requests are given to others",
		"acked": "workers acknowledged entries by themselves; where no reply comes within the lease, the request is given to another",
	} {
		n, first := 0, ""
		for _, f := range facts {
			if f.Kind == kind {
				n, first = n+1, cmp.Or(first, f.ID)
			}
		}
		if n > 0 {
			s.log.Warn(what, "service", service, "requests", n, "correlation_id", first)
		}
	}
}

// lapse takes work back from silent workers, and callbacks from dead gateways.
func (s *Steward) lapse(ctx context.Context, p int) error {
	if s.recovering(p) {
		return nil
	}
	services, err := s.broker.Busy(ctx, p, false)
	if err != nil {
		return err
	}
	for _, service := range services {
		if err := s.lapseAll(ctx, p, service); err != nil {
			return err
		}
	}
	_, err = s.broker.Reissue(ctx, p)
	return err
}

// lapseAll goes on until no lease of a service has lapsed: a worker that died
// may have held thousands of requests.
func (s *Steward) lapseAll(ctx context.Context, p int, service string) error {
	var found []broker.Fact
	defer func() { s.tell(service, found) }()
	for ctx.Err() == nil {
		d, err := s.broker.Lapse(ctx, p, service)
		if err != nil {
			return err
		}
		found = append(found, d.Facts...)
		if d.Settle {
			if err := s.settleAll(ctx, p); err != nil {
				return err
			}
		}
		if !d.More && !d.Settle {
			return nil
		}
	}
	return nil
}

// regulate moves what waits to the streams, as far as it may, and back.
func (s *Steward) regulate(ctx context.Context, p int) error {
	services, err := s.broker.Regulated(ctx, p)
	if err != nil {
		return err
	}
	for _, service := range services {
		for more := true; more && ctx.Err() == nil; {
			if more, err = s.broker.Regulate(ctx, p, service); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweep goes on in each queue where its last call ended. It looks closer than lapse
// for what to look at, and so does for both.
func (s *Steward) sweep() func(context.Context, int) error {
	after := map[string]string{}
	return func(ctx context.Context, p int) error {
		if s.recovering(p) {
			return nil
		}
		services, err := s.broker.Busy(ctx, p, true)
		if err != nil {
			return err
		}
		for _, service := range services {
			if err := s.lapseAll(ctx, p, service); err != nil {
				return err
			}
			facts, next, err := s.broker.Sweep(ctx, p, service, after[service])
			if err != nil {
				return err
			}
			after[service] = next
			s.tell(service, facts)
		}
		return nil
	}
}

// pursue goes on with the jobs that redrive dead letters.
func (s *Steward) pursue(ctx context.Context, p int) error {
	for ctx.Err() == nil {
		more, err := s.broker.Pursue(ctx, p)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func (s *Steward) tidy(ctx context.Context, p int) error {
	if _, err := s.broker.Tidy(ctx, p); err != nil {
		return err
	}
	if err := s.broker.Clear(ctx, p); err != nil {
		return err
	}
	if _, err := s.broker.Retire(ctx, p, retireAfter); err != nil || p > 0 {
		return err
	}
	return s.broker.Muster(ctx)
}

// prune goes on in each index where its last call ended.
func (s *Steward) prune() func(context.Context, int) error {
	var walk broker.Walk
	return func(ctx context.Context, p int) (err error) {
		walk, err = s.broker.Prune(ctx, p, walk)
		return err
	}
}

func (s *Steward) every(ctx context.Context, p int, interval time.Duration, doing string, do func(context.Context, int) error) {
	for loop.Rest(ctx, interval) {
		if err := do(ctx, p); err != nil {
			s.complain(ctx, doing, p, err)
		}
	}
}

// complain logs an error, as a Trouble does. p is -1 where it is about none.
func (s *Steward) complain(ctx context.Context, doing string, p int, err error) {
	if ctx.Err() != nil || errors.Is(err, broker.ErrClosed) {
		return
	}
	if errors.Is(err, broker.ErrUnavailable) || errors.Is(err, broker.ErrMemory) {
		s.mu.Lock()
		s.ill[p] = time.Now()
		s.mu.Unlock()
	}
	where := []any{"doing", doing, "error", err}
	if p >= 0 {
		where = append(where, "partition", p)
	}
	s.trouble.Warn("upkeep is held up; trying again", where...)
}

func (s *Steward) announceFreed(p int) {
	s.share.doubt()
	s.mu.Lock()
	defer s.mu.Unlock()
	for q, freed := range s.freed {
		if p == q || p < 0 {
			select {
			case freed <- struct{}{}:
			default: // it knows already
			}
		}
	}
}

func (s *Steward) freedChannel(p int) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.freed[p] == nil {
		s.freed[p] = make(chan struct{}, 1)
	}
	return s.freed[p]
}
