// Package auth says who calls and what they may: API keys with a tenant and
// scopes, and short-lived tickets for one event stream. It is pure: no clock of
// its own, no I/O.
//
//	keys, err := auth.New(configured)          // nil keys: everybody is the default tenant
//	who, err := keys.Authenticate(header)      // "Bearer cck_…"
//	if !who.May(auth.Submit) { … 403 … }
//
// A key is shown once, when it is made, and kept as a SHA-256 digest: it has
// 160 random bits, so a slow hash would protect nothing more.
package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Scope is one thing a key may do.
type Scope string

// The scopes.
const (
	Submit Scope = "submit"
	Read   Scope = "read"
	Cancel Scope = "cancel" // also delete
	Admin  Scope = "admin"  // metrics and operation
)

// Scopes are all scopes there are.
var Scopes = []Scope{Submit, Read, Cancel, Admin}

// DefaultTenant is everybody, where no keys are configured.
const DefaultTenant = "default"

const (
	keyPrefix  = "cck_"
	hashPrefix = "sha256:"
	keyBytes   = 20
)

var (
	// ErrUnauthenticated says that there is no key, or an unknown one.
	ErrUnauthenticated = errors.New("no valid API key")
	// ErrTicket says that a stream ticket is expired or was not made for this.
	ErrTicket = errors.New("no valid stream ticket")
)

// Key is a configured API key.
type Key struct {
	Name   string  `yaml:"name"`
	Hash   string  `yaml:"hash"` // sha256:<hex>
	Tenant string  `yaml:"tenant"`
	Scopes []Scope `yaml:"scopes"`
}

// Principal is who calls.
type Principal struct {
	Tenant string
	Scopes []Scope
}

// May tells whether the principal has a scope.
func (p Principal) May(s Scope) bool { return slices.Contains(p.Scopes, s) }

// Keys are the configured API keys; nil means that none are needed.
type Keys []Key

// Check reads the configured keys; the error names what is wrong.
func (k Keys) Check() error {
	for _, key := range k {
		digest, ok := strings.CutPrefix(key.Hash, hashPrefix)
		if raw, err := hex.DecodeString(digest); !ok || err != nil || len(raw) != sha256.Size {
			return fmt.Errorf("hash of API key %q: want sha256: and 64 hexadecimal digits, as `coatcheck keys create` prints it", key.Name)
		}
		if key.Tenant == "" {
			return fmt.Errorf("tenant of API key %q is missing", key.Name)
		}
		for _, s := range key.Scopes {
			if !slices.Contains(Scopes, s) {
				return fmt.Errorf("scope %q of API key %q: want submit, read, cancel or admin", s, key.Name)
			}
		}
	}
	return nil
}

// Authenticate reads an Authorization header. ErrUnauthenticated.
func (k Keys) Authenticate(authorization string) (Principal, error) {
	if k == nil {
		return Principal{Tenant: DefaultTenant, Scopes: Scopes}, nil
	}
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return Principal{}, ErrUnauthenticated
	}
	hash := Hash(strings.TrimSpace(token))
	found := Principal{}
	for _, key := range k { // all of them: how long it takes tells nothing
		if subtle.ConstantTimeCompare([]byte(hash), []byte(key.Hash)) == 1 {
			found = Principal{Tenant: key.Tenant, Scopes: key.Scopes}
		}
	}
	if found.Tenant == "" {
		return Principal{}, ErrUnauthenticated
	}
	return found, nil
}

// NewKey makes an API key, to be shown once.
func NewKey() string {
	raw := make([]byte, keyBytes)
	rand.Read(raw)
	return keyPrefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw))
}

// Hash is what the configuration keeps of a key.
func Hash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hashPrefix + hex.EncodeToString(sum[:])
}

// Ticket opens the events of one request until it expires, for a browser's
// EventSource, which can't send headers. It names the tenant, so that it stands
// for the key that made it.
func Ticket(secret []byte, id, tenant string, expires time.Time) string {
	head := strconv.FormatInt(expires.Unix(), 10) + "." + base64.RawURLEncoding.EncodeToString([]byte(tenant))
	return head + "." + base64.RawURLEncoding.EncodeToString(sign(secret, id, head))
}

// CheckTicket returns whom the ticket stands for, where it opens this request
// now, else ErrTicket.
func CheckTicket(secret []byte, ticket, id string, now time.Time) (Principal, error) {
	dot := strings.LastIndexByte(ticket, '.')
	if dot < 0 {
		return Principal{}, ErrTicket
	}
	head := ticket[:dot]
	given, err := base64.RawURLEncoding.DecodeString(ticket[dot+1:])
	if err != nil || !hmac.Equal(given, sign(secret, id, head)) {
		return Principal{}, ErrTicket
	}
	until, encoded, _ := strings.Cut(head, ".")
	seconds, err := strconv.ParseInt(until, 10, 64)
	tenant, err2 := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || err2 != nil || now.Unix() > seconds {
		return Principal{}, ErrTicket
	}
	return Principal{Tenant: string(tenant), Scopes: []Scope{Read}}, nil
}

func sign(secret []byte, id, head string) []byte {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("stream ticket\n" + id + "\n" + head))
	return mac.Sum(nil)[:16]
}
