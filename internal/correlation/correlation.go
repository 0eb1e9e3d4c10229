// Package correlation mints, routes and verifies the correlation ID, the
// ticket that a client holds for its request.
//
// An ID is a UUID of version 8 (RFC 9562, section 5.8):
//
//	bits    0–47  Unix time in milliseconds, when it was minted
//	bits   48–51  version, 8
//	bits   52–63  partition of the correlation table that holds the request
//	bits   64–65  variant, 10
//	bits   66–95  random
//	bits  96–127  HMAC-SHA-256 over bits 0–95 and the tenant, cut to 32 bits
//
// So an ID finds its partition by itself, IDs sort by time, and an ID that was
// never issued to this tenant is refused without asking Redis. The 32-bit tag
// is no secret that grants access (a guess succeeds once in four thousand
// million tries, and then finds an unused ID); who may read a request is
// decided by the API key and the tenant.
//
// Everything here is pure: no clock, no I/O.
package correlation

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// MaxPartitions is how many partitions the 12 bits of an ID can name.
const MaxPartitions = 1 << 12

// TextSize is the length of an ID as text.
const TextSize = 36

// keySize is the length of a deployment key in bytes, the block that
// HMAC-SHA-256 gains nothing from exceeding.
const keySize = 32

// Where the authentication tag starts, and its bytes.
const (
	tagOffset = 12
	tagSize   = len(ID{}) - tagOffset
)

var (
	// ErrMalformed says that the text is not a correlation ID at all.
	ErrMalformed = errors.New("not a correlation ID")
	// ErrForged says that no key of this deployment minted the ID for the tenant.
	ErrForged = errors.New("correlation ID was never issued to this tenant")
	// ErrKey says that the text of a key ring can't be read.
	ErrKey = errors.New("not a correlation ID key")
)

// ID is a correlation ID. The zero ID is never minted.
type ID uuid.UUID

// Parse reads the canonical 36-character form, either case. It checks form,
// version and variant; only Keyring.Verify tells whether it was issued.
func Parse(text string) (ID, error) {
	if len(text) != TextSize { // uuid.Parse also takes braces, URNs and bare hex
		return ID{}, ErrMalformed
	}
	u, err := uuid.Parse(text)
	if err != nil || u.Version() != 8 || u.Variant() != uuid.RFC4122 {
		return ID{}, ErrMalformed
	}
	return ID(u), nil
}

// String is the canonical form, lower case.
func (id ID) String() string { return uuid.UUID(id).String() }

// Append adds the canonical form to b.
func (id ID) Append(b []byte) []byte {
	n := len(b)
	b = append(b, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"...)
	text := b[n:]
	hex.Encode(text, id[:4])
	hex.Encode(text[9:], id[4:6])
	hex.Encode(text[14:], id[6:8])
	hex.Encode(text[19:], id[8:10])
	hex.Encode(text[24:], id[10:])
	return b
}

// MarshalText gives the canonical form.
func (id ID) MarshalText() ([]byte, error) { return id.Append(nil), nil }

// Partition is the number of the partition that holds the request.
func (id ID) Partition() int { return int(binary.BigEndian.Uint16(id[6:8]) & 0x0fff) }

// Time is when the ID was minted, to the millisecond.
func (id ID) Time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[0:8]) >> 16))
}

// Keyring holds the keys of a deployment. The first one mints; all verify, so
// that keys can be rotated while older IDs still resolve.
type Keyring [][]byte

// NewKey makes a random key.
func NewKey() []byte {
	key := make([]byte, keySize)
	rand.Read(key) // never fails: crypto/rand ends the process instead
	return key
}

// ParseKeyring reads comma-separated hexadecimal keys, the minting one first.
func ParseKeyring(text string) (Keyring, error) {
	var ring Keyring
	for part := range strings.SplitSeq(text, ",") {
		key, err := hex.DecodeString(strings.TrimSpace(part))
		if err != nil || len(key) != keySize {
			return nil, fmt.Errorf("%w: want %d hexadecimal digits", ErrKey, 2*keySize)
		}
		ring = append(ring, key)
	}
	return ring, nil
}

// String is the form that ParseKeyring reads. It is secret.
func (k Keyring) String() string {
	parts := make([]string, len(k))
	for i, key := range k {
		parts[i] = hex.EncodeToString(key)
	}
	return strings.Join(parts, ",")
}

// Mint makes a new ID for a request of tenant in a partition (0 to
// MaxPartitions-1; anything else is a bug and panics).
func (k Keyring) Mint(now time.Time, partition int, tenant string) ID {
	if partition < 0 || partition >= MaxPartitions {
		panic(fmt.Sprintf("correlation: partition %d is outside 0..%d", partition, MaxPartitions-1))
	}
	var id ID
	binary.BigEndian.PutUint64(id[0:8], uint64(now.UnixMilli())<<16)
	binary.BigEndian.PutUint16(id[6:8], 0x8000|uint16(partition))
	rand.Read(id[8:tagOffset])
	id[8] = id[8]&0x3f | 0x80
	sum := tag(k[0], id, tenant)
	copy(id[tagOffset:], sum[:])
	return id
}

// Verify returns nil where a key of the ring minted id for tenant, else
// ErrForged.
func (k Keyring) Verify(id ID, tenant string) error {
	for _, key := range k {
		if sum := tag(key, id, tenant); hmac.Equal(id[tagOffset:], sum[:]) {
			return nil
		}
	}
	return ErrForged
}

// macs are by key: to make one costs more than to use it.
var macs sync.Map // string(key) → *sync.Pool of *mac

// mac has room for what goes in and what comes out: both would be made anew each time.
type mac struct {
	hash.Hash
	in, out []byte
}

func tag(key []byte, id ID, tenant string) (sum [tagSize]byte) {
	pool, ok := macs.Load(string(key))
	if !ok {
		key := slices.Clone(key)
		pool, _ = macs.LoadOrStore(string(key), &sync.Pool{New: func() any { return &mac{Hash: hmac.New(sha256.New, key)} }})
	}
	m := pool.(*sync.Pool).Get().(*mac)
	m.Reset()
	m.in = append(append(m.in[:0], id[:tagOffset]...), tenant...)
	m.Write(m.in)
	m.out = m.Sum(m.out[:0])
	copy(sum[:], m.out)
	pool.(*sync.Pool).Put(m)
	return sum
}
