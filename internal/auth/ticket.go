package auth

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"
)

// ticketPurpose keeps the key of tickets apart from all others that are made
// of the same secret; its number is raised when the form of a ticket changes.
const ticketPurpose = "coatcheck stream ticket 1"

// signatureBytes is half a SHA-256: nobody guesses 128 bits within minutes, and
// URLs stay short.
const signatureBytes = 16

// Ticket opens the events of one request until it expires, for a browser's
// EventSource, which can't send headers. It names the tenant, so that it stands
// for the key that made it. id is the canonical form of the correlation ID.
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
	given, err := base64.RawURLEncoding.Strict().DecodeString(ticket[dot+1:])
	if err != nil || !hmac.Equal(given, sign(secret, id, head)) {
		return Principal{}, ErrTicket
	}
	until, encoded, _ := strings.Cut(head, ".")
	seconds, err := strconv.ParseInt(until, 10, 64)
	if err != nil || now.Unix() > seconds {
		return Principal{}, ErrTicket
	}
	tenant, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return Principal{}, ErrTicket
	}
	return Principal{Tenant: string(tenant), Scopes: []Scope{Read}}, nil
}

func sign(secret []byte, id, head string) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, ticketPurpose, sha256.Size)
	if err != nil {
		panic("auth: derive the key of tickets: " + err.Error()) // only for lengths that are not asked for
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "\n" + head))
	return mac.Sum(nil)[:signatureBytes]
}
