package broker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	submitTries  = 3                      // re-sends of a submit whose answer was lost; its nonce makes them harmless
	submitPause  = 100 * time.Millisecond // between them
	submitBudget = commandTimeout + time.Second
	// submitPlaces is how often a submit looks for a place: an ID that is taken is
	// a lottery win already, a home that moves is over within raiseMargin.
	submitPlaces = 8
)

var submitScript = newScript("submit", "intake")

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

	Cache CacheControl // where the service shares replies, see ServiceConfig; the zero value takes any
}

// submission is a Submission on its way through the batch.
type submission struct {
	Submission
	id          correlation.ID
	nonce       string
	plan        ServiceConfig
	binding     string // idempotency hash, "" without a key
	fingerprint string
	headers     string
	policy      string    // "weight limit gate flow", see prelude.lua; "" where nothing holds
	until       time.Time // zero, or when the home of the key moves
	register    bool      // the tenant, see tenants
	home        string    // key that finds its partition; "" for any
	scatter     *Scatter  // nil for a request to one service
	legs        []leg     // of a scatter
	sharing     string    // what it may share a run by, see submit.lua; "" for a run of its own
	unknown     bool      // an earlier try may have been committed
}

// Submit stores and queues a request in one atomic step.
//
// replayed says that the idempotency key had been used with the same payload;
// the record is then that request's, as it stands now. Errors:
// ErrUnknownService, ErrIdempotencyMismatch, ErrQueueFull, ErrMemory,
// ErrUnavailable (all: not accepted, nothing will run), ErrUnknownOutcome.
func (b *Broker) Submit(ctx context.Context, s Submission) (r Record, replayed bool, err error) {
	known, err := b.KnowsService(ctx, s.Service)
	if err != nil {
		return Record{}, false, err
	}
	if !known {
		return Record{}, false, ErrUnknownService
	}
	if err := b.Ready(); err != nil {
		return Record{}, false, err
	}
	if err := b.admitBytes(ctx, len(s.Body)); err != nil {
		return Record{}, false, err
	}
	sub := submission{Submission: s, nonce: newNonce(), plan: b.plan(s)}
	content, sharing := b.sharing(s, sub.plan)
	if sharing == "" && s.Cache.OnlyIfCached {
		return Record{}, false, ErrNotCached
	}
	sub.policy, sub.home, sub.sharing = policyOf(s, sub.plan), homeKey(s, sub.plan), sharing
	if sub.home == "" && content != "" {
		sub.home = "content\x00" + content
	}
	if len(s.Headers) > 0 {
		encoded, err := json.Marshal(s.Headers)
		if err != nil {
			return Record{}, false, fmt.Errorf("encode forwarded headers: %w", err)
		}
		sub.headers = string(encoded)
	}
	if s.IdempotencyKey != "" {
		sub.binding, sub.fingerprint = bindingOf(s), fingerprintOf(s)
	}
	return b.commit(ctx, &sub, len(s.Body)+512)
}

// commit finds a place for a submission of so many bytes, and stores it there.
func (b *Broker) commit(ctx context.Context, sub *submission, size int) (r Record, replayed bool, err error) {
	for range submitPlaces {
		if r, found, err := b.place(ctx, sub); found || err != nil {
			return r, found, err
		}
		sub.register = b.tenants.due(sub.Tenant, partitionOf(sub.id))
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
				b.tenants.registered(sub.Tenant, partitionOf(sub.id))
			}
			return b.stored(ctx, sub, answer), false, nil
		case "full":
			if len(answer) > 1 {
				return Record{}, false, fmt.Errorf("%w: %s", ErrQueueFull, answer[1])
			}
			return Record{}, false, ErrQueueFull
		case "uncached":
			return Record{}, false, ErrNotCached
		case "mismatch":
			return Record{}, false, ErrIdempotencyMismatch
		case "replayed":
			r, err := b.replay(ctx, answer[1])
			if errors.Is(err, ErrGone) { // its retention ended in this instant: the key is free
				continue
			}
			return r, true, err
		case "item": // of a batch that was sent again; what was forgotten meanwhile is not run anew
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

// stored is the record of what was just accepted. One that shares a run stands where
// that does.
func (b *Broker) stored(ctx context.Context, sub *submission, answer []string) Record {
	r := sub.record(answer)
	if r.Cache == CacheShared || r.Cache == CacheHit {
		if now, err := b.Status(ctx, r.ID); err == nil {
			return now
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
func (s *submission) record(answer []string) Record {
	created, cache := millis(answer[1]), ""
	if len(answer) > 5 {
		cache = answer[5]
	}
	return Record{
		ID: s.id, Tenant: s.Tenant, Service: s.Service, Status: Status(answer[4]), Attempt: 1,
		Created: created, Queued: entryTime(answer[2]), Deadline: created.Add(s.plan.Timeout),
		Traceparent: s.Traceparent, Callback: s.Callback, Minimal: s.Minimal, Ordinal: number(answer[3]), Tags: s.Tags,
		MaxAttempts: s.plan.MaxAttempts, Priority: priorityIn(s.policy), Release: s.release(created),
		Cache: cache, Legs: s.legsOf(Status(answer[4])), MinReplies: s.minReplies(),
	}
}

// release is when the delay of a submission is over; zero for none.
func (s *submission) release(created time.Time) time.Time {
	if s.Delay.Milliseconds() <= 0 {
		return time.Time{}
	}
	return created.Add(s.Delay).Truncate(time.Millisecond)
}

// sendSubmits commits a batch. It re-sends what may not have arrived: the
// nonce makes that harmless.
func (b *Broker) sendSubmits(calls []*call[*submission, []string]) {
	ctx, stop := context.WithTimeout(context.Background(), submitBudget)
	defer stop()
	todo := calls
	for try := range submitTries {
		if try > 0 && !loop.Rest(ctx, submitPause) {
			break
		}
		if todo = b.trySubmits(ctx, todo); len(todo) == 0 {
			return
		}
	}
	for _, c := range todo {
		if c.ask.unknown {
			c.err = fmt.Errorf("submit: %w: %w", ErrUnknownOutcome, c.err)
		} else {
			c.err = fault("submit", c.err)
		}
	}
}

// trySubmits sends one pipeline and returns the calls that are still open.
func (b *Broker) trySubmits(ctx context.Context, calls []*call[*submission, []string]) (open []*call[*submission, []string]) {
	pipe := b.redis.commands.Pipeline()
	answers := make([]*redis.Cmd, len(calls))
	for i, c := range calls {
		keys, args := c.ask.command()
		answers[i] = pipe.EvalSha(ctx, c.ask.script().sha, keys, args...)
	}
	_, _ = pipe.Exec(ctx) // each answer has its own error
	reload := false
	for i, c := range calls {
		raw, err := answers[i].Result()
		if err == nil {
			c.answer, c.err = texts(raw), nil
			continue
		}
		c.err = err
		reload = reload || isNoScript(err)
		if !unsent(err) {
			c.ask.unknown = true
		}
		if strings.HasPrefix(err.Error(), "OOM") && !c.ask.unknown {
			c.err = fault("submit", err)
			continue
		}
		open = append(open, c)
	}
	if reload {
		if err := load(ctx, b.redis.commands); err != nil {
			b.log.Debug("load scripts", "error", err)
		}
	}
	return open
}

func (s *submission) script() *script {
	if s.scatter != nil {
		return scatterScript
	}
	return submitScript
}

func (s *submission) minReplies() int {
	if s.scatter == nil {
		return 0
	}
	return s.scatter.MinReplies
}

func (s *submission) command() (keys []string, args []any) {
	p := partitionOf(s.id)
	keys = []string{p.request(s.id)}
	if s.binding != "" {
		keys = append(keys, p.idempotency(s.binding))
	}
	url, events := "", "-"
	if s.Callback != nil {
		url, events = s.Callback.URL, eventLetters(s.Callback.Events)
	}
	if s.Minimal {
		events += "m"
	}
	until := int64(0)
	if !s.until.IsZero() {
		until = s.until.UnixMilli()
	}
	if s.scatter != nil {
		return s.scatterCommand(keys, until, url, events)
	}
	return keys, []any{
		p.prefix(), s.id.String(), s.nonce, s.Service, tenantText(s.Tenant),
		s.plan.Timeout.Milliseconds(), s.plan.StartTimeout.Milliseconds(), s.plan.RunTimeout.Milliseconds(),
		s.plan.Lease.Milliseconds(), s.plan.MaxAttempts, s.plan.Retention.Milliseconds(), events, url,
		s.Traceparent, s.plan.MaxQueued, s.binding, s.fingerprint, until, s.plan.Backoff.Milliseconds(),
		s.Delay.Milliseconds(), s.policy, s.ContentType, s.headers, s.Body,
		strings.Join(s.Tags, " "), flag(s.register), s.plan.Concurrency, s.sharing,
		s.Batch.batch(), s.Batch.number(), s.Batch.ends(),
	}
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
	return hex.EncodeToString(n[:])
}
