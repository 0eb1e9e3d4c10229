package broker

import (
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// Status is where a request stands. A terminal status never changes.
type Status string

// The life of a request: scheduled → queued → running → one of the four
// outcomes. A retry or a lapsed lease goes back to scheduled or queued with
// the next attempt.
const (
	Scheduled Status = "scheduled" // waits in its partition for an instant
	Queued    Status = "queued"    // on the stream of its service, unclaimed
	Running   Status = "running"   // claimed by a worker
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
	TimedOut  Status = "timed_out"
	Canceled  Status = "canceled"
)

// Outcomes are the terminal statuses.
var Outcomes = []Status{Succeeded, Failed, TimedOut, Canceled}

// Terminal tells whether s is an outcome.
func (s Status) Terminal() bool {
	return s == Succeeded || s == Failed || s == TimedOut || s == Canceled
}

// Record is what the correlation table knows of one request. All times are
// UTC with the millisecond of Redis' clock; a zero time has not come yet.
type Record struct {
	ID      correlation.ID
	Tenant  string
	Service string
	Status  Status
	Reason  string // start, run, total, stall; worker, max_attempts, min_replies; client; of a success: partial
	Attempt int    // 1 for the first
	Worker  string // consumer name of the current or last attempt, "" until known
	Error   *Error // only for failed, timed_out and canceled

	Created  time.Time
	Queued   time.Time // when the current attempt was put on the stream
	Started  time.Time // when the current attempt was claimed
	Finished time.Time
	Deadline time.Time
	Expires  time.Time // once terminal: when the record is forgotten

	// Events is the number of the latest event: progress and partial replies
	// are 1, 2, 3 …, the outcome of a terminal request is the last.
	Events int
	// Reply is what the worker sent, once terminal and if it sent any. Status
	// leaves Body nil above InlineReply; Size is always there.
	Reply *Reply

	RetryOf     string // the dead letter that it was made of
	RetriedAs   string // the request that was made of it
	Traceparent string
	Callback    *Callback
	Tags        []string // to find it in the listing by; nil for none
	Minimal     bool     // no reply is kept, only the outcome

	Priority    Priority
	Release     time.Time // while scheduled: when its delay or back-off is over
	MaxAttempts int
	Attempts    []Attempt // before the present one, oldest first, the latest 20

	// Cache is how a request of a service that shares replies got its own: miss,
	// shared or hit; "" elsewhere. CachedAt is when the reply of a hit came.
	Cache    string
	CachedAt time.Time

	// Ordinal is the number of its work entry in its service and partition, 0
	// where it had to wait for it; Rank is its place among those that wait, 0
	// where it does not. Position makes a position of them.
	Ordinal int64
	Rank    int

	// Legs are the services of a scatter, in the order of the submit; none of any
	// other request. Its own Service is AnyService.
	Legs       []Leg
	MinReplies int // of a scatter: how many legs must succeed
}

// AnyService is the service of a scatter, which has several.
const AnyService = "*"

// Leg is one service of a scatter, and how far it is.
type Leg struct {
	Service  string
	Status   Status
	Reason   string // as of a record; scatter: it was not needed any more
	Attempt  int
	Worker   string
	Started  time.Time
	Finished time.Time
	Error    *Error
	Reply    *Reply // as of a record; Body is there only where the whole reply has it
}

// Attempt is one try at a request that led to another.
type Attempt struct {
	Number  int
	Worker  string // "" where nobody claimed it
	Started time.Time
	Ended   time.Time
	Error   Error
}

// Error is why a request did not succeed, in words for the client.
type Error struct {
	Code    string
	Message string
}

// Reply is the final answer of a worker: opaque bytes with a content type and
// an HTTP status code.
type Reply struct {
	ContentType string
	StatusCode  int
	Headers     map[string]string // lower-case names, as the worker sent them: vet them before use
	Size        int
	Body        []byte
}

// InlineReply is the largest reply body, in bytes, that travels inside a
// status document; a larger one is served by its own link alone.
const InlineReply = 64 << 10

// Callback is where and about what a client wants to be told.
type Callback struct {
	URL    string
	Events []string // succeeded, failed, timed_out, canceled, progress
}

// Event is one progress or partial reply of a request.
type Event struct {
	Number      int    // 1, 2, 3 … per request
	Type        string // progress or partial
	At          time.Time
	ContentType string
	Body        []byte
	Size        int // of the body

	Service string // of a scatter: whose event it is
	Leg     *Leg   // where it is the answer of that service, how it ended; Body is nil where it is too large for an event
}
