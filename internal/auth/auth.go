// Package auth says who calls and what they may: API keys with a tenant and
// scopes, and short-lived tickets for one event stream. It is pure: no clock of
// its own, no I/O.
//
//	err := keys.Check()                        // at the start, of what is configured
//	who, err := keys.Authenticate(header)      // "Bearer cck_…"
//	if !who.May(auth.Submit) { … 403 … }
//
//	ticket := auth.Ticket(secret, id, who.Tenant, expires) // …/stream-ticket
//	who, err := auth.CheckTicket(secret, ticket, id, now)  // …/events?ticket=
//
// Pitfall: nil Keys mean that none are needed, empty ones that nobody may call.
package auth

import (
	"errors"
	"slices"
)

// Scope is one thing a key may do.
type Scope string

// The scopes.
const (
	Submit Scope = "submit"
	Read   Scope = "read"
	Cancel Scope = "cancel" // also delete
	Work   Scope = "work"   // claim requests, of all tenants, and reply to them
	Admin  Scope = "admin"  // metrics and operation
)

// Scopes are all scopes there are.
var Scopes = []Scope{Submit, Read, Cancel, Work, Admin}

// DefaultTenant is everybody, where no keys are configured.
const DefaultTenant = "default"

var (
	// ErrUnauthenticated says that there is no key, or an unknown one.
	ErrUnauthenticated = errors.New("no valid API key")
	// ErrTicket says that a stream ticket is expired or was not made for this.
	ErrTicket = errors.New("no valid stream ticket")
)

// Principal is who calls.
type Principal struct {
	Tenant string
	Scopes []Scope
}

// May tells whether the principal has a scope.
func (p Principal) May(s Scope) bool { return slices.Contains(p.Scopes, s) }
