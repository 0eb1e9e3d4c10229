// Package webhook signs and verifies callbacks as the Standard Webhooks
// specification says (https://www.standardwebhooks.com).
//
// A receiver reads the whole body and verifies before it believes a word of it:
//
//	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
//	…
//	if err := webhook.Verify(r.Header, body, os.Getenv("CALLBACK_SECRET")); err != nil {
//		http.Error(w, "bad signature", http.StatusUnauthorized)
//		return
//	}
//
// Pitfalls. Verify the bytes as they came, not a decoded and encoded copy. The
// same event may arrive more than once: HeaderID is the same each time, so
// remember it. Answer with a 2xx within 15 seconds, and work afterwards. To
// rotate a secret, verify with the old and the new one until the sender has
// only the new one.
package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Headers of a callback.
const (
	HeaderID        = "Webhook-Id"        // the event; the same in every attempt
	HeaderTimestamp = "Webhook-Timestamp" // Unix seconds of the attempt
	HeaderSignature = "Webhook-Signature" // one or more "v1,<base64>", separated by spaces
)

// Tolerance is how far HeaderTimestamp may be from the receiver's clock: an
// older message may be a replay.
const Tolerance = 5 * time.Minute

const (
	secretPrefix = "whsec_"
	newSecret    = 32 // bytes
	// The specification's bounds of a secret, in bytes.
	minSecret, maxSecret = 24, 64
	// maxSignatures bounds the work that a hostile header can cause.
	maxSignatures = 16
)

var (
	// ErrSecret is returned for a secret that is not "whsec_" followed by the
	// base64 of 24 to 64 bytes, and where there is none.
	ErrSecret = errors.New("webhook secret is not whsec_ and the base64 of 24 to 64 bytes")
	// ErrHeaders is returned where a header is missing or malformed.
	ErrHeaders = errors.New("webhook headers are missing or malformed")
	// ErrTimestamp is returned where the message is older or newer than Tolerance.
	ErrTimestamp = errors.New("webhook timestamp is too far from the present")
	// ErrSignature is returned where no signature fits any of the secrets.
	ErrSignature = errors.New("webhook signature does not fit")
)

// NewSecret makes a random secret.
func NewSecret() string {
	var key [newSecret]byte
	rand.Read(key[:]) // never fails: crypto/rand ends the process instead
	return secretPrefix + base64.StdEncoding.EncodeToString(key[:])
}

// Check returns ErrSecret where the secret is none.
func Check(secret string) error {
	_, err := open(secret)
	return err
}

// Sign gives the value of HeaderSignature for a message sent at an instant:
// one signature for each secret, so that a receiver which has either of them
// can verify. Errors: ErrSecret.
func Sign(id string, at time.Time, body []byte, secrets ...string) (string, error) {
	s, err := NewSigner(secrets...)
	if err != nil {
		return "", err
	}
	return s.Sign(id, at, body), nil
}

// Signer signs many messages with the same secrets. Its methods may be called from
// many goroutines.
type Signer struct {
	states []*sync.Pool // of hash.Hash, by secret: a keyed one is made by two rounds of it
}

// NewSigner reads the secrets. ErrSecret where one is none, or there is none at all.
func NewSigner(secrets ...string) (*Signer, error) {
	if len(secrets) == 0 {
		return nil, ErrSecret
	}
	s := &Signer{}
	for _, secret := range secrets {
		key, err := keyOf(secret)
		if err != nil {
			return nil, err
		}
		s.states = append(s.states, &sync.Pool{New: func() any { return hmac.New(sha256.New, key) }})
	}
	return s, nil
}

// Sign is as the function of this name.
func (s *Signer) Sign(id string, at time.Time, body []byte) string {
	head := make([]byte, 0, 80)
	head = append(append(head, id...), '.')
	head = append(strconv.AppendInt(head, at.Unix(), 10), '.')
	var sum [sha256.Size]byte
	text := make([]byte, 0, 50*len(s.states))
	for i, states := range s.states {
		h := states.Get().(hash.Hash)
		h.Reset()
		h.Write(head)
		h.Write(body)
		if i > 0 {
			text = append(text, ' ')
		}
		text = append(text, "v1,"...)
		text = base64.StdEncoding.AppendEncode(text, h.Sum(sum[:0]))
		states.Put(h)
	}
	return string(text)
}

// Verify returns nil where the body was signed with one of the secrets, at most
// Tolerance ago. Errors: ErrSecret, ErrHeaders, ErrTimestamp, ErrSignature.
func Verify(header http.Header, body []byte, secrets ...string) error {
	if len(secrets) == 0 {
		return ErrSecret
	}
	if strings.Count(header.Get(HeaderSignature), " ") >= maxSignatures {
		return fmt.Errorf("%w: more than %d signatures", ErrHeaders, maxSignatures)
	}
	for _, secret := range secrets {
		hook, err := open(secret)
		if err != nil {
			return err
		}
		err = hook.Verify(body, header)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, standardwebhooks.ErrRequiredHeaders), errors.Is(err, standardwebhooks.ErrInvalidHeaders):
			return ErrHeaders
		case errors.Is(err, standardwebhooks.ErrMessageTooOld), errors.Is(err, standardwebhooks.ErrMessageTooNew):
			return ErrTimestamp
		}
	}
	return ErrSignature
}

func open(secret string) (*standardwebhooks.Webhook, error) {
	key, err := keyOf(secret)
	if err != nil {
		return nil, err
	}
	return standardwebhooks.NewWebhookRaw(key)
}

func keyOf(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, secretPrefix)
	if !ok {
		return nil, ErrSecret
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) < minSecret || len(key) > maxSecret {
		return nil, ErrSecret // without the cause: it quotes the secret
	}
	return key, nil
}
