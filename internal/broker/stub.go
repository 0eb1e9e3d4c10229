package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// THIS FILE IS A SCAFFOLD: signatures that other rooms build on; each moves to a file named by its verb.

// Options of Open. The zero value of each field means its default.
type Options struct {
	URL        string                   // redis://, rediss:// or unix://
	Name       string                   // of this process on the wake channel; default host-pid-random
	Partitions int                      // wanted count; 0 takes what cc:config says, or 1
	Services   map[string]ServiceConfig // configured services, put into cc:services
	IDKey      string                   // correlation.Keyring text; "" takes or makes the one in cc:config
	Logger     *slog.Logger             // default slog.Default()
}

// ServiceConfig is what the configuration says of a service; zero: the default of Defaults.
type ServiceConfig struct {
	Timeout, StartTimeout, RunTimeout, Retention, Lease time.Duration
	MaxAttempts                                         int
	MaxQueued                                           int // waiting requests above which Submit answers ErrQueueFull
}

type Broker struct{}

// Open connects and checks Redis (version, policy, protocol) and loads the scripts; ErrUnavailable while it can't.
func Open(ctx context.Context, o Options) (*Broker, error) { panic("scaffold") }

// Run keeps the broker's upkeep (health, services, configuration) until ctx ends.
func (b *Broker) Run(ctx context.Context) error { panic("scaffold") }
func (b *Broker) Close() error                  { panic("scaffold") }

// Ready is nil while Redis answers (checked every 500 ms), else an ErrUnavailable.
func (b *Broker) Ready() error { panic("scaffold") }

// Partitions is the current number of partitions.
func (b *Broker) Partitions() int { panic("scaffold") }

// Verify tells whether the ID was issued to the tenant: correlation.ErrForged if not.
func (b *Broker) Verify(id correlation.ID, tenant string) error { panic("scaffold") }

// Submission is a request as a gateway takes it in.
type Submission struct {
	Tenant, Service string
	ContentType     string            // "" if the client sent none
	Headers         map[string]string // forwarded to the worker, lower-case names
	Traceparent     string
	Body            []byte // not copied, must not change until Submit returns
	IdempotencyKey  string
	Callback        *Callback
	// Timeout, StartTimeout, RunTimeout, Retention override the service's where > 0.
	Timeout, StartTimeout, RunTimeout, Retention time.Duration
}

// Submit stores and queues a request in one atomic step. replayed: the idempotency key had been used; Record is that request's present state.
// ErrUnknownService, ErrIdempotencyMismatch, ErrQueueFull, ErrMemory, ErrUnavailable, ErrUnknownOutcome.
func (b *Broker) Submit(ctx context.Context, s Submission) (r Record, replayed bool, err error) {
	panic("scaffold")
}

// Status reads a record. ErrGone, ErrUnavailable. Concurrent reads share a pipeline, and one read serves all who asked for the same ID before it was sent.
func (b *Broker) Status(ctx context.Context, id correlation.ID) (Record, error) { panic("scaffold") }

// Attach is Status that first registers this process for wake-ups about id, in the same step.
func (b *Broker) Attach(ctx context.Context, id correlation.ID) (Record, error) { panic("scaffold") }

// Detach takes the registration back; best effort.
func (b *Broker) Detach(ctx context.Context, id correlation.ID) error { panic("scaffold") }

// Events reads the record and its events numbered above after, consistent with each other. First is the number of the oldest event still kept (after+1 < First means that history was cut); 0 if there is none.
func (b *Broker) Events(ctx context.Context, id correlation.ID, after int) (r Record, events []Event, first int, err error) {
	panic("scaffold")
}

// Reply reads the record with the whole reply body.
func (b *Broker) Reply(ctx context.Context, id correlation.ID) (Record, error) { panic("scaffold") }

// Cancel records the outcome canceled. ErrTerminal with the record where it has an outcome already.
func (b *Broker) Cancel(ctx context.Context, id correlation.ID) (Record, error) { panic("scaffold") }

// Delete forgets a request now (an open one is canceled first). ErrGone.
func (b *Broker) Delete(ctx context.Context, id correlation.ID) error { panic("scaffold") }

// Wakes calls woken with IDs whose state changed, and resumed after every (re)connection of the subscription, when anything may have been missed. Blocks until ctx ends.
func (b *Broker) Wakes(ctx context.Context, woken func([]correlation.ID), resumed func()) error {
	panic("scaffold")
}

// Queue is a sample, at most a second old, of one service over all partitions.
type Queue struct {
	Depth     int           // queued and scheduled, not claimed
	Running   int           // claimed
	OldestAge time.Duration // of the oldest unclaimed entry
	PerSecond float64       // recent starts per second, 0 if unknown
	RunTime   time.Duration // recent mean from claim to reply, 0 if unknown
}

func (b *Broker) Queue(ctx context.Context, service string) (Queue, error) { panic("scaffold") }

// Position estimates the place of a queued record in its line (1 is next) and its start; ok is false where it is not queued or cannot be told.
func (b *Broker) Position(ctx context.Context, r Record) (position int, start time.Time, ok bool) {
	panic("scaffold")
}

// RetryAfter is in how many whole seconds (1..60) asking again is worthwhile.
func (b *Broker) RetryAfter(ctx context.Context, r Record) int { panic("scaffold") }

// Services lists the known services, sorted.
func (b *Broker) Services() []string { panic("scaffold") }

// KnowsService asks Redis (at most every 100 ms) where memory does not know it.
func (b *Broker) KnowsService(ctx context.Context, service string) (bool, error) { panic("scaffold") }

// ---- worker side

// Delivery is a claimed work entry.
type Delivery struct {
	ID          string
	Token       string
	ReplyTo     string
	Service     string
	Attempt     int
	Deadline    time.Time
	Lease       time.Duration
	ContentType string
	Traceparent string
	Headers     map[string]string
	Body        []byte
}

// WorkerReply is one reply of a worker. Type: progress, partial, final, failed, retry, heartbeat.
type WorkerReply struct {
	Type        string
	ContentType string
	Body        []byte
	StatusCode  int           // 0: 200 for final, 500 for failed
	Seq         int           // 1, 2 … per attempt; 0 for none
	Delay       time.Duration // retry only; 0 lets the gateway choose
	Error       *Error        // failed and retry
}

// Announcement is what a worker says of itself for a service.
type Announcement struct {
	Lease time.Duration // 0: leaves the default
}

// Announce makes services known and creates the streams' groups.
func (b *Broker) Announce(ctx context.Context, services map[string]Announcement) error {
	panic("scaffold")
}

// Claim takes up to n entries, waiting up to block (at most 2 s) for the first. Re-announces by itself on NOGROUP. A cancelled ctx does not interrupt the wait.
func (b *Broker) Claim(ctx context.Context, consumer string, services []string, n int, block time.Duration) ([]Delivery, error) {
	panic("scaffold")
}

// Send puts replies on the reply stream of their delivery, retrying until ctx ends. Concurrent sends share a pipeline.
func (b *Broker) Send(ctx context.Context, d Delivery, r WorkerReply) error { panic("scaffold") }

// Cancellations calls canceled with the ID of each request of the services that ended while claimed. Blocks until ctx ends.
func (b *Broker) Cancellations(ctx context.Context, services []string, canceled func(id string)) error {
	panic("scaffold")
}

// ---- callbacks

// Intent is a callback that is owed.
type Intent struct {
	Partition int
	Entry     string // its place on the stream, for the broker
	ID        correlation.ID
	Type      string // succeeded, failed, timed_out, canceled, progress
	Number    int    // of the event
	Attempt   int    // 1 for the first delivery
}

// ClaimIntents takes up to n intents for this process (any partition), waiting up to block. One that is neither Delivered nor Postponed within 60 s is handed out again.
func (b *Broker) ClaimIntents(ctx context.Context, n int, block time.Duration) ([]Intent, error) {
	panic("scaffold")
}

// Delivered settles an intent: told, or given up. The record expires as its retention says once no intent is open.
func (b *Broker) Delivered(ctx context.Context, i Intent) error { panic("scaffold") }

// Postpone hands the intent out again after delay, with Attempt+1.
func (b *Broker) Postpone(ctx context.Context, i Intent, delay time.Duration) error {
	panic("scaffold")
}

// Event reads one event of a request by number, nil where it was cut.
func (b *Broker) Event(ctx context.Context, id correlation.ID, number int) (Record, *Event, error) {
	panic("scaffold")
}

// ---- steward side: used by internal/steward only; see steward.go

// Stats is a snapshot for /metrics (Redis pool, counters since start, table by state); see stats.go.
