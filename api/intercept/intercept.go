// Package intercept lets a gateway look at requests before they are queued and
// at replies before they are settled, and change or refuse them.
//
//	chain := intercept.NewChain(logger)
//	chain.Use("resize", intercept.RequestSchema(schema))
//	chain.Use(intercept.All, intercept.Interceptor{Name: "stamp", Request: stamp})
//
// Interceptors of all services run first, then those of the service, each kind in
// the order in which they were added. The first error ends the chain: a request
// is refused and nothing is queued, a final reply makes its request fail. All
// gateways of a deployment must have the same chain, since any of them may settle
// a reply.
//
// Pitfalls: Body is shared, so put a new slice in its place instead of changing
// it. An interceptor has a second; one that is slower, or panics, counts as one
// that refuses, and after five in a row it is not asked for half a minute. A reply
// may be shown to its interceptors more than once, where a gateway dies between.
package intercept

import (
	"context"
	"errors"
	"maps"
)

// All stands for every service in Use.
const All = "*"

// Request is what a client handed in.
type Request struct {
	Tenant, Service string
	ContentType     string            // "" if the client sent none
	Headers         map[string]string // that go to the worker, lower-case names
	Body            []byte
}

// Reply is what a worker sent as the final reply of a request that succeeded.
type Reply struct {
	CorrelationID, Service string
	ContentType            string
	StatusCode             int // 0: 200
	Body                   []byte
}

// Interceptor is one link of a chain; a nil function lets everything pass.
type Interceptor struct {
	Name    string // in the log, and for whoever is refused by it
	Request func(ctx context.Context, r *Request) error
	Reply   func(ctx context.Context, r *Reply) error
}

// Refusal is an error that the client is told of; of any other error it only
// hears which interceptor refused.
type Refusal struct {
	Code   string // of the error of a failed request, e.g. "schema"
	Detail string // what is wrong, as a sentence
	Faults []Fault
}

// Fault is one place of a JSON body that is wrong.
type Fault struct {
	Pointer string // JSON Pointer (RFC 6901), "" for the whole body
	Detail  string
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Detail }

// ErrBroken is returned for an interceptor that took too long, panicked, or is
// not asked because it did so too often. The same call may succeed later.
var ErrBroken = errors.New("interceptor does not answer")

// copy is what an interceptor gets: one that takes too long may go on changing it.
func (r Request) copy() *Request {
	r.Headers = maps.Clone(r.Headers)
	return &r
}
