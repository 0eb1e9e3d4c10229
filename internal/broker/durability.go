package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// Mode is how Redis keeps what was accepted, from its 202 on.
//
// What each relies on: Redis executes a batch, then writes it to its append-only
// file, with appendfsync always syncs that, and only then sends any answer. So with
// [Fsync] nobody is ever told of anything that a power cut could take, be it an
// acceptance, an outcome or a callback to make; and with [Local] the death of the
// process takes nothing, since the kernel has what was answered.
//
// A replica has what its master has a little later, which is why [Replicated] waits:
//
//   - A submit, of any kind, and what else is answered as done (a redrive, a cancel,
//     a delete, a batch) waits in the pipeline of its writes. Unmet it is
//     ErrUnknownOutcome: the write is there, and may go with the master.
//   - So does a replay, for what an earlier call wrote: see confirm.
//   - An outcome, its callback and the events need no wait where they are written, by
//     a steward, since a reply that goes with its master makes the request run
//     again. But what was shown must stay, so who shows them waits: see shown.
//
// A failover may lose what nobody was told: claims and heartbeats (the request is
// dispatched again, within its attempts), replies that were not seen (the same),
// and what was answered with a 504. What is said of open requests in passing may
// step back: running to queued, numbers of events, listings, estimates.
type Mode string

// The modes, each above the one before it.
const (
	Unpromised Mode = "" // nobody looks: of a worker, which accepts nothing
	Memory     Mode = "memory"
	Local      Mode = "local"
	Fsync      Mode = "fsync"
	Replicated Mode = "replicated" // as local, and n replicas have it

	Auto Mode = "auto" // as Redis is set, of memory, local and fsync; may change while it runs
)

// Durability is what a gateway demands of Redis.
type Durability struct {
	Mode     Mode
	Replicas int           // of Replicated, at least 1
	Wait     time.Duration // for them; default 1 s, at most 2
	Asserted bool          // believe it where Redis does not let itself be looked at
}

const (
	inspectEvery   = 30 * time.Second // CONFIG SET by an operator is seen within
	inspectAgain   = time.Second      // while something is wrong, or a connection is new
	inspectTimeout = time.Second
	defaultWait    = time.Second
	longestWait    = 2 * time.Second // below commandTimeout, in which the whole pipeline is answered
)

func (d Durability) check() (Durability, error) {
	if d.Wait == 0 {
		d.Wait = defaultWait
	}
	switch {
	case d.Wait < time.Millisecond || d.Wait > longestWait:
		return d, fmt.Errorf("durability: a wait of %s is outside 1ms..%s", d.Wait, longestWait)
	case d.Mode == Replicated && d.Replicas < 1:
		return d, errors.New("durability: replicated needs a number of replicas, at least 1")
	case d.Mode != Replicated && d.Replicas != 0:
		return d, fmt.Errorf("durability: %s has no number of replicas", d.Mode)
	}
	return d, nil
}

func (d Durability) String() string {
	if d.Mode == Replicated {
		return fmt.Sprintf("%s(%d)", d.Mode, d.Replicas)
	}
	return string(d.Mode)
}

// Kept is how Redis keeps what is accepted, as it was last looked at.
type Kept struct {
	Durability       // that is promised; its mode is never Auto
	Auto       bool  // not configured: it is what Redis is set to
	Wrong      error // ErrUndurable: why it is not so; nil: it is, on one master at least
}

func (k Kept) String() string {
	text := k.Durability.String()
	switch {
	case k.Auto:
		text += " (as Redis is set; not configured)"
	case k.Asserted:
		text += " (asserted; Redis does not let it be checked)"
	}
	return text
}

// keeper looks after the durability.
type keeper struct {
	look turn // one at a time; guards last and off
	last time.Time
	off  bool // at the last look, a server had no append-only file

	met   sync.Map             // histories of data, by their replication ID
	whole sync.Map             // of these, those whose append-only file was seen when it was written
	kept  atomic.Pointer[Kept] // nil before the first look
	unfit sync.Map             // of a Redis Cluster: master → why it takes no new requests
	soon  atomic.Bool          // look before inspectEvery is over
	unmet atomic.Int64         // answers withheld because replicas were missing
	shown []atomic.Int64       // by partition, of Replicated: what is older, in ms of Redis, the replicas have
}

// Kept is how Redis keeps what is accepted. It asks nobody.
func (b *Broker) Kept() Kept {
	if k := b.keeper.kept.Load(); k != nil {
		return *k
	}
	return Kept{}
}

// Admits is nil while new requests may be accepted: Redis answers, and keeps them as
// is configured. ErrUnavailable, ErrUndurable. It asks nobody.
func (b *Broker) Admits() error {
	if err := b.Ready(); err != nil {
		return err
	}
	return b.Kept().Wrong
}

// startKeeping looks for the first time. A server that does not do what is demanded
// ends the start.
func (b *Broker) startKeeping(ctx context.Context) error {
	d := b.options.Durability
	if d.Mode == Replicated {
		b.keeper.shown = make([]atomic.Int64, correlation.MaxPartitions)
	}
	if err := b.inspect(ctx); err != nil {
		return err
	}
	if d.Mode == Unpromised {
		return nil
	}
	if d.Mode == Replicated { // may WAIT be used, and does it work
		err := b.eachMaster(ctx, func(ctx context.Context, m *master) error {
			if len(m.has) == 0 {
				return nil
			}
			return b.sendFence(ctx, m)
		})
		if err != nil {
			if few, ok := errors.AsType[tooFew](err); ok {
				return notYet("durability %s: only %d of the replicas of Redis confirm within %s. See to it that they keep up, or let durability_wait be longer", d, few.got, d.Wait)
			}
			return fault("wait for the replicas of Redis", err)
		}
	}
	k := b.Kept()
	switch {
	case k.Auto && k.Mode == Memory:
		b.log.Warn("Redis keeps accepted requests in its memory only, or does not say: they are lost when it ends. For an append-only file: CONFIG SET appendonly yes, CONFIG REWRITE. With durability set, a gateway makes sure of it",
			"durability", k.String())
	case k.Asserted:
		b.log.Warn("Redis does not let its settings be read; what is configured is believed", "durability", k.String())
	default:
		b.log.Info("what is accepted is kept", "durability", k.String())
	}
	return nil
}

// inspectIfDue looks every 30 s, and each second where something is wrong.
func (b *Broker) inspectIfDue(ctx context.Context) {
	k := &b.keeper
	if k.look.take(ctx) != nil {
		return
	}
	age := time.Since(k.last)
	k.look.give()
	unfit := false
	k.unfit.Range(func(any, any) bool { unfit = true; return false })
	if b.options.Durability.Mode == Unpromised || age < inspectAgain || age < inspectEvery && !k.soon.Load() && b.Kept().Wrong == nil && !unfit {
		return
	}
	if err := b.inspect(ctx); err != nil && !errors.Is(err, ErrUndurable) && ctx.Err() == nil {
		b.log.Debug("look at the settings of Redis", "error", err)
		k.soon.Store(true)
	}
}

// inspect asks every master for its settings. ErrUndurable, where one does not do what
// is demanded; ErrUnavailable.
func (b *Broker) inspect(ctx context.Context) error {
	k := &b.keeper
	if err := k.look.take(ctx); err != nil {
		return err
	}
	defer k.look.give()
	k.soon.Store(false)
	k.last = time.Now()
	ctx, stop := context.WithTimeout(ctx, inspectTimeout)
	defer stop()
	found, off := best, false
	var together sync.Mutex
	looked, wrong, names := 0, 0, map[any]bool{}
	err := b.eachMaster(ctx, func(ctx context.Context, m *master) error {
		s, err := examine(ctx, m)
		if err != nil {
			return err
		}
		s.replica = s.replica && b.redis.nodes == nil // in a Redis Cluster another has taken over, and commands find that
		together.Lock()
		defer together.Unlock()
		k.meet(s.history)
		k.wrote(&s)
		off = off || s.appendonly == "no"
		if k.off && s.rewriting {
			s.first = true
		}
		kept, err := s.judge(b.options.Durability)
		found = found.and(kept)
		looked, names[m.name] = looked+1, true
		if err != nil {
			wrong++
		}
		b.fits(m.name, err)
		return err
	})
	if err != nil && !errors.Is(err, ErrUndurable) {
		return fault("ask Redis for its settings", err)
	}
	k.unfit.Range(func(name, _ any) bool { // of those that are no masters any more
		if !names[name] {
			k.unfit.Delete(name)
		}
		return true
	})
	if wrong == looked {
		found.Wrong = err
	}
	k.off = off
	b.adoptKept(found)
	return err
}

// adoptKept makes a finding known, and says what changed.
func (b *Broker) adoptKept(found Kept) {
	before := b.keeper.kept.Swap(&found)
	switch {
	case before == nil:
	case found.Wrong != nil && (before.Wrong == nil || before.Wrong.Error() != found.Wrong.Error()):
		b.log.Error("new requests are refused until Redis keeps them as is configured", "error", found.Wrong)
	case found.Wrong == nil && before.Wrong != nil:
		b.log.Info("Redis keeps what is accepted as is configured again", "durability", found.String())
	case found.Wrong == nil && found.String() != before.String():
		b.log.Warn("Redis keeps what is accepted in another way now", "durability", found.String(), "before", before.String())
	}
}

// fits notes whether a master of a Redis Cluster takes new requests: where another does
// not keep them as is configured, they go on here.
func (b *Broker) fits(name string, err error) {
	if b.redis.nodes == nil {
		return
	}
	if err == nil {
		if _, was := b.keeper.unfit.LoadAndDelete(name); was {
			b.log.Info("a master of the Redis Cluster keeps what is accepted as is configured again", "node", name)
		}
		return
	}
	if before, was := b.keeper.unfit.Swap(name, err); !was || before.(error).Error() != err.Error() {
		b.log.Error("new requests of the partitions of a master are refused until it keeps them as is configured", "node", name, "error", err)
	}
}

// wrongAt is why the server of a partition takes no new requests; nil: it does.
func (b *Broker) wrongAt(p partition) error {
	if b.redis.nodes != nil {
		if err, unfit := b.keeper.unfit.Load(b.server(p)); unfit {
			return err.(error)
		}
	}
	return b.Kept().Wrong
}

// connected looks at the server behind a new connection before anything is sent
// there: it may have started anew, by a file that lacks what CONFIG SET changed, or
// be another one. A submit looks at what was found once it has its answer.
func (b *Broker) connected(ctx context.Context, c redis.Cmdable, name string) {
	k := &b.keeper
	if k.kept.Load() == nil { // Open looks by itself
		return
	}
	k.soon.Store(true)
	s, err := examine(ctx, c)
	if err != nil || s.replica {
		return // the next look, or the command itself, meets it too; a replica is only asked who is who
	}
	k.meet(s.history)
	k.wrote(&s)
	if found, err := s.judge(b.options.Durability); err != nil {
		b.fits(name, err)
		if b.redis.nodes == nil {
			found.Wrong = err
			b.adoptKept(found)
		}
	}
}

// wrote remembers of which servers the append-only file is there. Where that of one which
// began with none is rewritten for the first time, INFO looks as if it were the first.
func (k *keeper) wrote(s *server) {
	switch _, whole := k.whole.Load(s.history); {
	case s.appendonly == "no":
		k.whole.Delete(s.history)
	case !s.rewriting:
		k.whole.Store(s.history, true)
	case whole:
		s.first = false
	}
}

// meet forgets what was confirmed where a server has begun a history of its own, as
// one does that takes over: its clock may be behind.
func (k *keeper) meet(history string) {
	if _, known := k.met.LoadOrStore(history, true); known {
		return
	}
	for p := range k.shown {
		k.shown[p].Store(0)
	}
}
