package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

// maxScatterBytes is what the entries of one scatter may hold together: one script
// writes them, and Redis does nothing else meanwhile.
const maxScatterBytes = 64 << 20

var scatterScript = newScript("scatter", "intake")

// Scatter is a request to several services. What is of the whole stands in the
// embedded Submission: tenant, timeout, retention, delay, callback, tags, trace
// and idempotency key.
type Scatter struct {
	Submission
	Legs          []Submission  // one each service: its body and headers, attempts and clocks
	MinReplies    int           // how many must succeed; 0 for all
	StallTimeout  time.Duration // without an answer for so long it is over; 0 for never
	AcceptPartial bool          // when time is up, or all have answered, one success will do
}

// leg is a Submission to one service on its way through the batch.
type leg struct {
	Submission
	plan            ServiceConfig
	headers, policy string
}

// Scatter stores a scatter and queues all its legs in one atomic step. Errors are
// those of Submit, and ErrApart, ErrScatterTooLarge.
func (b *Broker) Scatter(ctx context.Context, s Scatter) (r Record, replayed bool, err error) {
	size := 0
	for _, l := range s.Legs {
		if known, err := b.KnowsService(ctx, l.Service); err != nil {
			return Record{}, false, err
		} else if !known {
			return Record{}, false, fmt.Errorf("%w: %s", ErrUnknownService, l.Service)
		}
		size += len(l.Body) + 512
	}
	if size > maxScatterBytes {
		return Record{}, false, ErrScatterTooLarge
	}
	if err := b.Admits(); err != nil {
		return Record{}, false, err
	}
	s.Service = AnyService
	if s.MinReplies == 0 {
		s.MinReplies = len(s.Legs)
	}
	sub := submission{Submission: s.Submission, nonce: newNonce(), scatter: &s}
	if err := b.addLegs(&sub, s.Legs); err != nil {
		return Record{}, false, err
	}
	if sub.home, err = b.commonHome(&sub); err != nil {
		return Record{}, false, err
	}
	if s.IdempotencyKey != "" {
		sub.binding, sub.fingerprint = bindingOf(s.Submission), s.fingerprint()
	}
	return b.commit(ctx, &sub, size)
}

// addLegs makes the legs ready. The whole has as much time, and is kept as long,
// as the service that has the most, where nothing is said.
func (b *Broker) addLegs(sub *submission, legs []Submission) error {
	for _, s := range legs {
		s.Tenant, s.Delay, s.Timeout = sub.Tenant, sub.Delay, sub.Timeout
		l := leg{Submission: s, plan: b.plan(&s)}
		l.policy = policyOf(&s, &l.plan)
		if len(s.Headers) > 0 {
			encoded, err := json.Marshal(s.Headers)
			if err != nil {
				return fmt.Errorf("encode forwarded headers: %w", err)
			}
			l.headers = string(encoded)
		}
		sub.legs = append(sub.legs, l)
		sub.plan.Timeout = max(sub.plan.Timeout, l.plan.Timeout)
		sub.plan.Retention = max(sub.plan.Retention, l.plan.Retention)
	}
	sub.plan.MaxAttempts = 1
	if sub.Retention > 0 {
		sub.plan.Retention = sub.Retention
	}
	return nil
}

// commonHome is the key that finds the partition of a scatter. All of it is in one
// partition, where the promises of a limit or a key hold: legs that must be in
// different ones don't go together.
func (b *Broker) commonHome(sub *submission) (string, error) {
	home := ""
	for _, l := range sub.legs {
		one := l.Submission
		one.IdempotencyKey = "" // it is the whole's
		key := homeKey(&one, &l.plan)
		if key == "" {
			continue
		}
		if home != "" && b.homeOf(home, b.Partitions()) != b.homeOf(key, b.Partitions()) {
			return "", ErrApart
		}
		home = key
	}
	if home == "" {
		home = homeKey(&sub.Submission, &ServiceConfig{})
	}
	return home, nil
}

// fingerprint tells payloads apart, as fingerprintOf.
func (s Scatter) fingerprint() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s %t\n", s.MinReplies, s.StallTimeout, s.AcceptPartial)
	for _, l := range s.Legs {
		fmt.Fprintf(h, "%s %q %q %d\n", l.Service, l.ContentType, l.Headers[api.TargetPath], len(l.Body))
		h.Write(l.Body)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// scatterCommand is what scatter.lua takes. A body that several legs share goes over
// the wire once.
func (s *submission) scatterCommand() (keys []string, args []any) {
	p := s.at
	keys = []string{p.request(s.id)}
	if s.binding != "" {
		keys = append(keys, p.idempotency(s.binding))
	}
	url, events := s.callback()
	until := int64(0)
	if !s.until.IsZero() {
		until = s.until.UnixMilli()
	}
	var bodies, legs []any
	var known [][]byte
	for _, l := range s.legs {
		i := slices.IndexFunc(known, func(b []byte) bool {
			return len(b) == len(l.Body) && (len(b) == 0 || &b[0] == &l.Body[0])
		})
		if i < 0 {
			i = len(known)
			known, bodies = append(known, l.Body), append(bodies, l.Body)
		}
		legs = append(legs, l.Service, l.plan.StartTimeout.Milliseconds(), l.plan.RunTimeout.Milliseconds(), l.plan.Lease.Milliseconds(),
			l.plan.MaxAttempts, l.plan.Backoff.Milliseconds(), l.plan.MaxQueued, l.policy, l.ContentType, l.headers, i+1, l.plan.Concurrency)
	}
	args = []any{
		p.prefix(), s.id.String(), s.nonce, tenantText(s.Tenant), s.plan.Timeout.Milliseconds(), s.plan.Retention.Milliseconds(),
		events, url, s.Traceparent, s.binding, s.fingerprint, until, s.Delay.Milliseconds(), strings.Join(s.Tags, " "), flag(s.register),
		s.scatter.MinReplies, s.scatter.StallTimeout.Milliseconds(), flag(s.scatter.AcceptPartial), len(bodies),
	}
	return keys, append(append(args, bodies...), legs...)
}

// legsOf are those of a scatter that was just accepted.
func (s *submission) legsOf(status Status) (legs []Leg) {
	for _, l := range s.legs {
		legs = append(legs, Leg{Service: l.Service, Status: status, Attempt: 1})
	}
	return legs
}

// retryAfterLegs is RetryAfter of a scatter: until the slowest of its open legs, of
// a few of them, may have answered.
func (b *Broker) retryAfterLegs(ctx context.Context, r Record) int {
	longest, asked := 1, 0
	for _, l := range r.Legs {
		if l.Status.Terminal() || asked == 8 {
			continue
		}
		asked++
		longest = max(longest, b.RetryAfter(ctx, Record{ID: r.ID, Service: l.Service, Status: l.Status, Attempt: 2, Started: l.Started}))
	}
	return longest
}
