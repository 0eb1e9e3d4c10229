package broker

import "errors"

// What can go wrong, as a closed set: httpapi has one table from these to
// problem documents. Redis' own text is wrapped behind them for the log and
// never reaches a client.
var (
	// ErrGone is returned for an ID that was issued and whose record is no
	// longer there.
	ErrGone = errors.New("request is gone")
	// ErrTerminal is returned by Cancel for a request that has its outcome.
	ErrTerminal = errors.New("request has its outcome already")
	// ErrNotDead is returned by Retry for a request that did not fail or time out, and
	// for a scatter.
	ErrNotDead = errors.New("request is no dead letter")
	// ErrUnknownService is returned by Submit for a service that is neither
	// configured nor was ever announced by a worker.
	ErrUnknownService = errors.New("unknown service")
	// ErrUnknownWorker is returned by Drain for a worker that is not alive.
	ErrUnknownWorker = errors.New("unknown worker")
	// ErrCursor is returned by List for a cursor that none of its pages had.
	ErrCursor = errors.New("cursor can't be read")
	// ErrIdempotencyMismatch is returned by Submit where the key was used with
	// another payload.
	ErrIdempotencyMismatch = errors.New("idempotency key was used with another payload")
	// ErrQueueFull is returned by Submit where the service has its fill of
	// waiting requests.
	ErrQueueFull = errors.New("queue of the service is full")
	// ErrNotCached is returned by Submit where only a cached reply would do, and
	// there is none: not accepted, nothing will run.
	ErrNotCached = errors.New("no cached reply")
	// ErrApart is returned by Scatter for services, or keys, that each have a
	// partition of their own.
	ErrApart = errors.New("legs are at home in different partitions")
	// ErrScatterTooLarge is returned by Scatter for bodies that are together more
	// than one step may write.
	ErrScatterTooLarge = errors.New("bodies of the scatter are too large together")
	// ErrMemory is returned by Submit while Redis is above the share of its
	// memory that is kept for replies.
	ErrMemory = errors.New("no room for new requests in Redis")
	// ErrUndurable is returned by Open, and by all that accepts, while Redis does not
	// keep requests as is configured: not accepted, nothing will run. Its text is for
	// operators.
	ErrUndurable = errors.New("Redis does not keep requests as is configured")
	// ErrUnavailable is returned while Redis can't be asked. For Submit it
	// means: not accepted, nothing will run.
	ErrUnavailable = errors.New("Redis can't be reached")
	// ErrUnknownOutcome is returned by Submit, Cancel, Delete and Answer where the
	// connection broke after the command was sent, or too few replicas confirmed it: it
	// had its effect or not, and may lose it. Only a repeat can tell, of a submit with
	// the same idempotency key.
	ErrUnknownOutcome = errors.New("it is unknown whether the command has its effect")
	// ErrUnknownClaim is returned by Answer for a token that was not handed out
	// with a claim.
	ErrUnknownClaim = errors.New("unknown claim")
	// ErrClaimLost is returned by Answer where the request has its outcome, or
	// another attempt at it has begun.
	ErrClaimLost = errors.New("claim is no longer held")
	// ErrEventTooLarge is returned by Answer for a progress or partial reply that
	// is larger than is kept.
	ErrEventTooLarge = errors.New("event is too large")
	// ErrClosed is returned by calls on a closed Broker.
	ErrClosed = errors.New("broker is closed")
	// ErrProtocol means that a gateway of a later version has been here, which stores
	// requests in a way that this one does not understand.
	ErrProtocol = errors.New("Redis holds data of a later version")
)
