package callback

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/webhook"
)

// Limits of one attempt.
const (
	sendTimeout    = 15 * time.Second // from the first packet to the last byte that is read
	connectTimeout = 5 * time.Second
	maxAnswer      = 4 << 10  // bytes read, so that the connection can be used again
	maxHeaders     = 32 << 10 // bytes of the answer's headers
	idleTimeout    = 30 * time.Second
)

// verdict is what came of one attempt. The loop owns retrying: a sender only
// says whether trying again can help.
type verdict struct {
	delivered  bool
	retry      bool
	retryAfter time.Duration // as the receiver asked, 0 for nothing
	reason     string        // for the log; never the URL, which may hold a secret
}

// sender posts signed messages.
type sender struct {
	transport *http.Transport
	signer    *webhook.Signer
	agent     string
}

func newSender(g *Guard, signer *webhook.Signer, version string) *sender {
	dialer := &net.Dialer{Timeout: connectTimeout, Control: g.control}
	return &sender{
		signer: signer,
		agent:  "coatcheck/" + version,
		// No proxy: it would resolve names behind the guard's back.
		transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: connectTimeout,
			MaxIdleConns: inFlight + inHand, MaxIdleConnsPerHost: perQuickHost, IdleConnTimeout: idleTimeout,
			MaxResponseHeaderBytes: maxHeaders, DisableCompression: true, ForceAttemptHTTP2: true,
		},
	}
}

// send posts one message.
func (s *sender) send(ctx context.Context, m message) verdict {
	ctx, stop := context.WithTimeout(ctx, sendTimeout)
	defer stop()
	request, err := s.request(ctx, m)
	if err != nil {
		return verdict{reason: err.Error()} // another try would be no better
	}
	// Not by a Client: a redirect is an answer, and not a success, since the client of
	// the gateway named another URL; and there are no cookies. So no error names the URL.
	answer, err := s.transport.RoundTrip(request)
	if err != nil {
		return verdict{retry: true, reason: err.Error()}
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, maxAnswer) // the status has been said
	code := answer.StatusCode
	if code >= 200 && code < 300 {
		return verdict{delivered: true}
	}
	v := verdict{reason: "answered " + strconv.Itoa(code), retryAfter: retryAfter(answer.Header)}
	switch code {
	case http.StatusGone: // "stop calling", as Standard Webhooks has it
	default:
		v.retry = true
	}
	return v
}

func (s *sender) request(ctx context.Context, m message) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url, bytes.NewReader(m.body))
	if err != nil {
		return nil, errors.New("the URL can't be used")
	}
	now := time.Now()
	h := request.Header
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", s.agent)
	h.Set(webhook.HeaderID, m.id)
	h.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(webhook.HeaderSignature, s.signer.Sign(m.id, now, m.body))
	h.Set(api.HeaderCorrelationID, m.correlationID)
	if m.traceparent != "" {
		h.Set(api.HeaderTraceparent, m.traceparent)
	}
	return request, nil
}
