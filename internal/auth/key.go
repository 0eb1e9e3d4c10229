package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

const (
	keyPrefix  = "cck_"
	hashPrefix = "sha256:"
	keyBytes   = 20 // 160 random bits: a slow hash would protect nothing more
)

// Key is a configured API key.
type Key struct {
	Name   string  `yaml:"name"`
	Hash   string  `yaml:"hash"` // sha256:<hex>
	Tenant string  `yaml:"tenant"`
	Scopes []Scope `yaml:"scopes"`
}

// Keys are the configured API keys; nil means that none are needed.
type Keys []Key

// Check reads the configured keys; the error names what is wrong.
func (k Keys) Check() error {
	known := map[string]string{}
	for _, key := range k {
		digest, ok := strings.CutPrefix(key.Hash, hashPrefix)
		if raw, err := hex.DecodeString(digest); !ok || err != nil || len(raw) != sha256.Size || digest != strings.ToLower(digest) {
			return fmt.Errorf("hash of API key %q: want sha256: and 64 hexadecimal digits in lower case, as `coatcheck keys create` prints it", key.Name)
		}
		if other, twice := known[digest]; twice { // whose request would it be?
			return fmt.Errorf("API keys %q and %q have the same hash: one key can't be two", other, key.Name)
		}
		known[digest] = key.Name
		if key.Tenant == "" {
			return fmt.Errorf("tenant of API key %q is missing", key.Name)
		}
		for _, s := range key.Scopes {
			if !slices.Contains(Scopes, s) {
				return fmt.Errorf("scope %q of API key %q: want submit, read, cancel, work or admin", s, key.Name)
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
