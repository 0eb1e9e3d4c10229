package broker

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

var answerScript = newPlainScript("answer")

// tokenForm is what enqueue in moves.lua writes: ID and leg of a scatter, or 0 for
// a shared run, attempt, nonce.
var tokenForm = regexp.MustCompile(`^([0-9a-f-]{36})(/(?:0|[1-9][0-9]{0,2}))?\.([1-9][0-9]{0,9})\.([0-9a-f]{1,64})$`)

// Answer takes a reply by the token of a claim, for a worker that has nothing
// else in its hand. Unlike Send it tells whether the claim still holds, and
// tries once. id is the request's, as soon as the token can be read.
//
// ErrUnknownClaim, ErrGone, ErrEventTooLarge; ErrClaimLost, with now saying where
// the request stands instead; ErrMemory and ErrUnavailable (not taken),
// ErrUnknownOutcome.
func (b *Broker) Answer(ctx context.Context, token string, r WorkerReply) (id correlation.ID, now Status, err error) {
	token = strings.Replace(token, "~", "/", 1) // see ClaimToken
	parts := tokenForm.FindStringSubmatch(token)
	if parts == nil {
		return id, "", ErrUnknownClaim
	}
	if id, err = correlation.Parse(parts[1]); err != nil {
		return id, "", fmt.Errorf("%w: %w", ErrUnknownClaim, err)
	}
	if (r.Type == "progress" || r.Type == "partial") && len(r.Body) > maxEventSize {
		return id, "", ErrEventTooLarge
	}
	if err := b.Ready(); err != nil {
		return id, "", err
	}
	p := b.partitionOf(id)
	name := id.String() + parts[2]
	args := r.fields([]any{name, parts[3], parts[4]}, token)
	raw, err := answerScript.run(ctx, b.redis, p, []string{p.record(name), p.replies()}, args...)
	if err != nil {
		if wrapped := fault("take a reply", err); unsent(err) {
			return id, "", wrapped
		}
		return id, "", fmt.Errorf("take a reply: %w: %w", ErrUnknownOutcome, err)
	}
	v := texts(raw)
	switch v[0] {
	case "gone":
		return id, "", ErrGone
	case "foreign":
		return id, "", ErrUnknownClaim
	case "lost":
		return id, Status(v[1]), ErrClaimLost
	}
	return id, Status(v[1]), nil
}
