package broker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/loop"
)

// submitPlaces is how often a submit looks for a place: an ID that is taken is a
// lottery win already, a home that moves is over within raiseMargin.
const submitPlaces = 8

// Submission is a request as a gateway takes it in.
type Submission struct {
	Tenant, Service string
	ContentType     string            // "" if the client sent none
	Headers         map[string]string // forwarded to the worker, lower-case names
	Traceparent     string            // W3C Trace Context, or ""
	Body            []byte            // not copied; must not change until Submit returns
	IdempotencyKey  string            // "" for none
	Callback        *Callback         // nil for none
	Tags            []string          // without white space; nil for none
	Batch           *Item             // what it is of a batch; nil for nothing
	Minimal         bool              // the outcome is wanted, the reply is not kept

	// Where above 0, these override what is configured for the service.
	Timeout, StartTimeout, RunTimeout, Retention, Backoff time.Duration
	MaxAttempts                                           int

	Delay    time.Duration // accepted → in line; the other clocks start when it is over
	Priority Priority      // in line; the zero value is normal

	// At most one of the two keys. Requests with one ordering key run one after
	// the other in the order accepted; of one concurrency key, as many at once as
	// the service allows.
	OrderingKey, ConcurrencyKey string

	// Await is told of the request where this process can be told of its outcome; nil for
	// nobody.
	Await Await

	Cache CacheControl // where the service shares replies, see ServiceConfig; the zero value takes any
}

// Await is who expects that the reply of a submit will be waited for here.
type Await interface {
	// Minted says which ID it is about to have, more than once where one is taken.
	// attach has it register this process for wake-ups, as Attach does.
	Minted(id correlation.ID) (attach bool)
	// Stored says that it was, with this process registered from the start. It need not
	// come where the request was stored.
	Stored(r Record)
}

// Young is for how long after it was sent a request may be shown as this process
// remembers it. For as long it is not deleted once it has its outcome.
const Young = 200 * time.Millisecond

// submission is a Submission on its way through the batch.
type submission struct {
	Submission
	id          correlation.ID
	name        string // id as text
	at          partition
	nonce       string
	plan        ServiceConfig
	binding     string // idempotency hash, "" without a key
	fingerprint string
	headers     string
	policy      string    // "weight limit gate flow", see record.lua; "" where nothing holds
	until       time.Time // zero, or when the home of the key moves
	register    bool      // the tenant, see tenants
	waiter      string    // gateway that is registered for wake-ups, "" for none
	home        string    // key that finds its partition; "" for any
	scatter     *Scatter  // nil for a request to one service
	legs        []leg     // of a scatter
	sharing     string    // what it may share a run by, see submit.lua; "" for a run of its own
	unknown     bool      // an earlier try may have been committed
	left        bool      // direct.lua leaves it to submit.lua
}

// Submit stores and queues a request in one atomic step.
//
// replayed says that the idempotency key had been used with the same payload;
// the record is then that request's, as it stands now. Errors:
// ErrUnknownService, ErrIdempotencyMismatch, ErrQueueFull, ErrMemory,
// ErrUnavailable (all: not accepted, nothing will run), ErrUnknownOutcome; ErrGone
// where it was accepted, and somebody forgot it before this call had its answer.
func (b *Broker) Submit(ctx context.Context, s Submission) (r Record, replayed bool, err error) {
	sub, err := b.prepare(ctx, s)
	if err != nil {
		return Record{}, false, err
	}
	return b.commit(ctx, sub, len(s.Body)+512)
}

// prepare checks what needs no place in Redis.
func (b *Broker) prepare(ctx context.Context, s Submission) (*submission, error) {
	known, err := b.KnowsService(ctx, s.Service)
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, ErrUnknownService
	}
	if err := b.Admits(); err != nil {
		return nil, err
	}
	sub := &submission{Submission: s, nonce: newNonce(), plan: b.plan(&s)}
	content, sharing := b.sharing(&s, &sub.plan)
	if sharing == "" && s.Cache.OnlyIfCached {
		return nil, ErrNotCached
	}
	sub.policy, sub.home, sub.sharing = policyOf(&s, &sub.plan), homeKey(&s, &sub.plan), sharing
	if sub.home == "" && content != "" {
		sub.home = "content\x00" + content
	}
	if sub.headers, err = encodeHeaders(s.Headers); err != nil {
		return nil, fmt.Errorf("encode forwarded headers: %w", err)
	}
	if s.IdempotencyKey != "" {
		sub.binding, sub.fingerprint = bindingOf(s), fingerprintOf(s)
	}
	return sub, nil
}

// commit finds a place for a submission of so many bytes, and stores it there.
func (b *Broker) commit(ctx context.Context, sub *submission, size int) (r Record, replayed bool, err error) {
	for range submitPlaces {
		if r, found, err := b.place(ctx, sub); found || err != nil {
			return r, found, err
		}
		if err := b.admits(ctx, sub.at, size); err != nil {
			return Record{}, false, err
		}
		sub.register = b.tenants.due(sub.Tenant, sub.at)
		sub.waiter = ""
		if sub.Await != nil && sub.sharing == "" && b.isTold() && sub.Await.Minted(sub.id) {
			sub.waiter = b.waiter()
		}
		answer, left, err := b.submits.do(ctx, sub, size)
		if left {
			return Record{}, false, fmt.Errorf("submit: %w: %w", ErrUnknownOutcome, err)
		}
		if err != nil {
			return Record{}, false, err
		}
		switch answer[0] {
		case "accepted":
			if sub.register {
				b.tenants.registered(sub.Tenant, sub.at)
			}
			b.counters.took(sub.Service)
			r := b.stored(ctx, sub, answer)
			if sub.waiter != "" && !sub.unknown {
				sub.Await.Stored(r)
			}
			return r, false, nil
		case "full":
			if sub.unknown { // an earlier try may still come, and find room
				return Record{}, false, fmt.Errorf("submit: %w: its queue was full the next time", ErrUnknownOutcome)
			}
			if answer[1] != "" {
				return Record{}, false, fmt.Errorf("%w: %s", ErrQueueFull, answer[1])
			}
			return Record{}, false, ErrQueueFull
		case "gone": // an earlier try was accepted, and forgotten meanwhile
			return Record{}, false, ErrGone
		case "uncached":
			return Record{}, false, ErrNotCached
		case "mismatch":
			return Record{}, false, ErrIdempotencyMismatch
		case "replayed":
			if err := b.confirm(ctx, sub.at); err != nil {
				return Record{}, false, err
			}
			r, err := b.replay(ctx, answer[1])
			if errors.Is(err, ErrGone) { // its retention ended in this instant: the key is free
				continue
			}
			return r, true, err
		case "item": // of a batch that was sent again; what was forgotten meanwhile is not run anew
			if err := b.confirm(ctx, sub.at); err != nil {
				return Record{}, false, err
			}
			r, err := b.replay(ctx, answer[1])
			if errors.Is(err, ErrGone) {
				r.ID, err = correlation.Parse(answer[1])
			}
			return r, true, err
		case "moved":
			loop.Rest(ctx, raiseMargin/4)
		}
	}
	return Record{}, false, fmt.Errorf("submit: found no place in %d tries: %w", submitPlaces, ErrUnavailable)
}

// admits is nil while a partition takes new requests, and one of so many bytes fits.
func (b *Broker) admits(ctx context.Context, p partition, size int) error {
	if err := b.readyAt(p); err != nil {
		return err
	}
	if err := b.wrongAt(p); err != nil {
		return err
	}
	return b.admitBytes(ctx, p, size)
}

// stored is the record of what was just accepted. One that shares a run stands where
// that does; and one that was accepted by an earlier try, whose answer was lost, may
// have come far since.
func (b *Broker) stored(ctx context.Context, sub *submission, answer verdict) Record {
	r := sub.record(answer)
	if sub.unknown || r.Cache == CacheShared || r.Cache == CacheHit {
		if now, err := b.Status(ctx, r.ID); err == nil {
			return now
		}
		r.Status = Queued // as it was accepted: of what it is now the answer tells too little
		if !r.Release.IsZero() {
			r.Status = Scheduled
		}
	}
	return r
}

func (b *Broker) replay(ctx context.Context, text string) (Record, error) {
	id, err := correlation.Parse(text)
	if err != nil {
		return Record{}, fmt.Errorf("read the bound correlation ID: %w", err)
	}
	return b.Status(ctx, id)
}

// record is what a submit just stored.
func (s *submission) record(answer verdict) Record {
	created := millis(answer[1])
	return Record{
		ID: s.id, Tenant: s.Tenant, Service: s.Service, Status: Status(answer[4]), Attempt: 1,
		Created: created, Queued: entryTime(answer[2]), Deadline: created.Add(s.plan.Timeout.Truncate(time.Millisecond)),
		Traceparent: s.Traceparent, Callback: s.Callback, Minimal: s.Minimal, Ordinal: number(answer[3]), Tags: s.Tags,
		MaxAttempts: s.plan.MaxAttempts, Priority: priorityIn(s.policy), Release: s.release(created),
		Cache: answer[5], Legs: s.legsOf(Status(answer[4])), MinReplies: s.minReplies(),
	}
}

// release is when the delay of a submission is over; zero for none.
func (s *submission) release(created time.Time) time.Time {
	if s.Delay.Milliseconds() <= 0 {
		return time.Time{}
	}
	return created.Add(s.Delay).Truncate(time.Millisecond)
}

func (s *submission) minReplies() int {
	if s.scatter == nil {
		return 0
	}
	return s.scatter.MinReplies
}

// eventLetters writes callback events as the record does: s, f, t, c, p.
func eventLetters(events []string) string {
	var letters strings.Builder
	for _, e := range events {
		letters.WriteByte(e[0])
	}
	return letters.String()
}

// fingerprintOf tells payloads apart: content type, target and body.
func fingerprintOf(s Submission) string {
	h := sha256.New()
	h.Write([]byte(s.ContentType))
	h.Write([]byte{0})
	for _, target := range []string{api.TargetMethod, api.TargetPath} {
		if value, ok := s.Headers[target]; ok {
			h.Write([]byte(target + value + "\x00"))
		}
	}
	h.Write(s.Body)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func newNonce() string {
	var n [8]byte
	rand.Read(n[:])
	var text [2 * len(n)]byte
	hex.Encode(text[:], n[:])
	return string(text[:])
}
