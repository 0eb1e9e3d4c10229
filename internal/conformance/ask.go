package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

const (
	binary = "application/octet-stream" // content type of all that is asked
	glance = 50 * time.Millisecond      // between two looks at a status
	// attempts are more than any duty needs: a worker that is away for a while, as a
	// backend is that starts anew, must not use them up.
	attempts = 10
	backoff  = 300 * time.Millisecond
	begins   = 300 * time.Millisecond // from the claim of a request to its handler
)

// question is what a request asks its worker to do. Everything that does not
// begin like one is to be given back as it is. The fields are in this order, with
// no white space between, so that a shell script can read them.
type question struct {
	Do     string `json:"do"`               // progress, partial, fail, retry or sleep
	MS     int64  `json:"ms,omitempty"`     // of sleep
	Reason string `json:"reason,omitempty"` // of fail
	Nonce  string `json:"nonce"`            // no two are equal, so that no cache answers
}

// submit hands a question in.
func (r *run) submit(ctx context.Context, q question) (id string, err error) {
	q.Nonce = rand.Text()
	body, err := json.Marshal(q)
	if err != nil {
		return "", fmt.Errorf("encode a question: %w", err)
	}
	return r.hand(ctx, body)
}

func (r *run) hand(ctx context.Context, body []byte) (id string, err error) {
	s, err := r.client.Submit(ctx, r.Service, client.Request{
		ContentType: binary, Body: body, MaxAttempts: attempts, Backoff: backoff,
		Header: map[string]string{"Cache-Control": "no-store"},
	})
	if err != nil {
		return "", fmt.Errorf("submit: %w", err)
	}
	r.open = append(r.open, s.CorrelationID)
	return s.CorrelationID, nil
}

// outcome waits for the outcome of a request, and reads its reply.
func (r *run) outcome(ctx context.Context, id string, within time.Duration) (s api.Status, reply client.Reply, err error) {
	limited, stop := context.WithTimeout(ctx, within)
	defer stop()
	s, err = r.client.Wait(limited, id)
	if limited.Err() != nil && ctx.Err() == nil {
		if s, err = r.client.Status(ctx, id); err == nil && !client.Terminal(s) {
			return s, reply, wrong{fmt.Sprintf("an outcome within %v", within), describe(s)}
		}
	}
	if err != nil {
		return s, reply, err
	}
	reply, err = r.client.Reply(ctx, id)
	if _, none := errors.AsType[api.Problem](err); none { // the gateway has none of the worker
		err = nil
	}
	return s, reply, err
}

// succeeded waits for a success, and wants the reply of the attempt that the
// status is at.
func (r *run) succeeded(ctx context.Context, id string, within time.Duration) (api.Status, error) {
	s, reply, err := r.outcome(ctx, id, within)
	if err != nil {
		return s, err
	}
	want := "attempt " + strconv.Itoa(s.Attempt)
	if s.Status != api.Succeeded || strings.TrimSpace(string(reply.Body)) != want {
		return s, wrong{fmt.Sprintf("success with the reply %q", want), describe(s) + ", reply " + shown(reply.Body)}
	}
	return s, nil
}

// started waits until a worker has a request.
func (r *run) started(ctx context.Context, id string, within time.Duration) (bool, error) {
	for until := time.Now().Add(within); ; {
		s, err := r.client.Status(ctx, id)
		if err != nil || s.Status == api.Running || client.Terminal(s) {
			return err == nil, err
		}
		if time.Now().After(until) || !rest(ctx, glance) {
			return false, ctx.Err()
		}
	}
}

// held has the worker busy with a request for a while.
func (r *run) held(ctx context.Context, long time.Duration) (id string, err error) {
	id, err = r.submit(ctx, question{Do: "sleep", MS: long.Milliseconds()})
	if err != nil {
		return "", err
	}
	if begun, err := r.started(ctx, id, r.Patience); err != nil {
		return "", err
	} else if !begun {
		return "", wrong{fmt.Sprintf("that the worker takes a request within %v", r.Patience), "it is still queued"}
	}
	rest(ctx, begins)
	return id, r.busy(ctx, id, long)
}

// busy wants a request not to have an outcome yet.
func (r *run) busy(ctx context.Context, id string, long time.Duration) error {
	s, err := r.client.Status(ctx, id)
	if err == nil && client.Terminal(s) {
		err = wrong{fmt.Sprintf("that the worker is busy with it for %v", long), describe(s)}
	}
	return err
}

// unsupported tells whether a worker failed a request because it has no such
// replies.
func unsupported(s api.Status, reply client.Reply) bool {
	said := s.Error.Code + " " + s.Error.Message + " " + string(reply.Body)
	return s.Status == api.Failed && strings.Contains(said, "unsupported")
}

// describe is a status in words.
func describe(s api.Status) string {
	text := fmt.Sprintf("%s at attempt %d", s.Status, s.Attempt)
	if s.Error.Code != "" {
		text += fmt.Sprintf(" (%s: %s)", s.Error.Code, s.Error.Message)
	}
	for _, a := range s.Attempts {
		text += fmt.Sprintf("; attempt %d ended by %s", a.Attempt, a.Error.Code)
	}
	return text
}

// shown is a body in a message.
func shown(body []byte) string {
	const most = 60
	if len(body) > most {
		return fmt.Sprintf("%q… (%d bytes)", body[:most], len(body))
	}
	return strconv.Quote(string(body))
}

// difference says where two bodies part.
func difference(want, got []byte) string {
	if len(want) != len(got) {
		return fmt.Sprintf("%d bytes: %s", len(got), shown(got))
	}
	at := 0
	for at < len(want) && bytes.HasPrefix(got, want[:at+1]) {
		at++
	}
	return fmt.Sprintf("other bytes from %d on: %s", at, shown(got[at:]))
}

// rest waits; false once ctx ends.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
