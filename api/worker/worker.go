// Package worker answers the requests of one or more services.
//
// Make a worker, say what it answers, and run it until the process is asked to
// end:
//
//	w := worker.New("redis://127.0.0.1:6379")
//	w.Handle("resize", func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
//		if err := r.Progress(ctx, map[string]int{"percent": 50}); err != nil {
//			return worker.Reply{}, err
//		}
//		return worker.Reply{ContentType: "image/png", Body: resized}, nil
//	})
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	defer stop()
//	err := w.Run(ctx)
//
// What a handler returns is the reply: a nil error is success, an error is
// failure, Retry asks for another attempt, Fail names the failure for the
// client, and a panic is a failure with the code "panic". The reply is also the
// acknowledgement; until it is taken, the request belongs to this worker only as
// long as its lease is renewed, which the worker does by itself.
//
// The context of a handler ends when nobody wants its reply any more:
// context.Cause says ErrCanceled, context.DeadlineExceeded or ErrShutdown. A
// handler that ignores it wastes its time, not the client's.
//
// The worker shows itself in the registry of the gateways (GET /v1/workers) for
// as long as it lives. Where it is told there to drain, it finishes what it has
// and claims no more, but goes on until Run's context ends.
//
// Pitfalls. A request may be delivered more than once, never more often than
// its service allows: make handlers idempotent, by Request.ID where nothing
// better is at hand. A handler holds one slot while it runs; the worker never
// claims more than it has slots for (Concurrency). While Redis is away, replies
// are kept and sent again until the deadline of their request.
//
// Workers in other languages speak the same protocol with two Redis commands:
// see README.md here, and asyncapi.yaml above.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// Defaults of the options, and the limits within which they may be set.
const (
	DefaultConcurrency = 10
	DefaultGrace       = 10 * time.Second

	maxConcurrency = 10_000
	minLease       = 300 * time.Millisecond // heartbeats more often than ten a second would be the load
	maxLease       = 24 * time.Hour
	maxCacheTTL    = 7 * 24 * time.Hour
	defaultLease   = 30 * time.Second // of a service where neither gateway nor worker sets one
)

// Worker claims requests of its services and sends the replies of its
// handlers. Set it up with Handle and Use, then call Run once.
type Worker struct {
	url      string
	options  options
	services map[string]*service
	chain    []func(Handler) Handler
	wrong    []error // mistakes in the set-up; Run returns them
}

// service is one name with its handler.
type service struct {
	handler Handler
	lease   time.Duration // 0 leaves what holds
	leased  bool          // lease was set

	cacheTTL time.Duration // of its replies, where they say nothing

	description                string
	requestSchema, replySchema string // JSON schemas, "" for none
}

// New makes a worker for the Redis at redisURL (redis://,
// redis+sentinel:// or redis+cluster://, rediss for TLS, or unix://), the one that the gateways use. Nothing is dialled before Run.
func New(redisURL string, options ...Option) *Worker {
	w := &Worker{url: redisURL, services: map[string]*service{}}
	w.options.concurrency = DefaultConcurrency
	w.options.grace = DefaultGrace
	for _, set := range options {
		set(&w.options)
	}
	if n := w.options.concurrency; n < 1 || n > maxConcurrency {
		w.mistake("concurrency %d is outside 1..%d", n, maxConcurrency)
	}
	if w.options.grace < 0 {
		w.mistake("grace %v is negative", w.options.grace)
	}
	if w.options.logger == nil {
		w.options.logger = slog.Default()
	}
	return w
}

// Handle has fn answer the requests of a service. A gateway that has not heard
// of the service knows it within a second of Run.
func (w *Worker) Handle(name string, fn Handler, options ...ServiceOption) {
	s := &service{handler: fn}
	for _, set := range options {
		set(s)
	}
	switch {
	case !api.ValidService(name):
		w.mistake("service %q: want %s", name, api.ServiceNames)
	case fn == nil:
		w.mistake("service %q has no handler", name)
	case w.services[name] != nil:
		w.mistake("service %q has two handlers", name)
	case len(s.description) > broker.MaxDescription:
		w.mistake("service %q: its description has %d bytes, more than %d", name, len(s.description), broker.MaxDescription)
	case s.cacheTTL < 0 || s.cacheTTL > maxCacheTTL:
		w.mistake("service %q: a reply can't be cached for %v, the most is %v", name, s.cacheTTL, maxCacheTTL)
	case s.leased && (s.lease < minLease || s.lease > maxLease):
		w.mistake("service %q: lease %v is outside %v..%v", name, s.lease, minLease, maxLease)
	}
	for of, schema := range map[string]string{"requests": s.requestSchema, "replies": s.replySchema} {
		if schema == "" {
			continue
		}
		if err := broker.CheckSchema([]byte(schema)); err != nil {
			w.mistake("service %q: the schema of %s can't be used: %v", name, of, err)
		}
	}
	w.services[name] = s
}

// Use puts middleware around every handler, the first one outermost.
func (w *Worker) Use(middleware func(Handler) Handler) { w.chain = append(w.chain, middleware) }

func (w *Worker) mistake(format string, args ...any) {
	w.wrong = append(w.wrong, fmt.Errorf("worker: "+format, args...))
}

// check finds what is wrong with the set-up as a whole.
func (w *Worker) check() error {
	wrong := w.wrong
	if len(w.services) == 0 {
		wrong = append(wrong, errors.New("worker: no service to answer: call Handle before Run"))
	}
	for name, s := range w.services {
		lease := s.lease
		if lease == 0 {
			lease = defaultLease
		}
		if h := w.options.heartbeat; h > lease/3 {
			wrong = append(wrong, fmt.Errorf("worker: heartbeat every %v is too seldom for service %q: two lost ones and its lease of %v lapses while the handler still runs; want at most %v", h, name, lease, lease/3))
		}
	}
	if n := len(w.options.version); n > broker.MaxVersion {
		wrong = append(wrong, fmt.Errorf("worker: version has %d bytes, more than %d", n, broker.MaxVersion))
	}
	if h := w.options.heartbeat; h < 0 {
		wrong = append(wrong, fmt.Errorf("worker: heartbeat interval %v is negative", h))
	}
	return errors.Join(wrong...)
}

// options are what New was told.
type options struct {
	name        string
	version     string
	concurrency int
	grace       time.Duration
	heartbeat   time.Duration
	logger      *slog.Logger
	dial        func(ctx context.Context, network, addr string) (net.Conn, error)
	limit       func() int // nil: concurrency alone
}

// Option changes a worker.
type Option func(*options)

// Name is how the worker is known: the `worker` of a request's status. Without
// white space, and unlike that of any other worker that runs. Default
// host-pid-random.
func Name(name string) Option { return func(o *options) { o.name = name } }

// Version is what this process runs, as the registry shows it; at most 64 bytes.
// Default: none.
func Version(version string) Option { return func(o *options) { o.version = version } }

// Concurrency is how many handlers may run at once, 1 to 10,000. Default 10.
func Concurrency(n int) Option { return func(o *options) { o.concurrency = n } }

// Limit is asked before each claim how many handlers may run at once now, up to
// Concurrency: below it nothing is claimed, so that the requests stay for other
// workers and no attempt is lost. limit must be fast.
func Limit(limit func() int) Option { return func(o *options) { o.limit = limit } }

// Grace is how long handlers may go on once Run's context has ended; then their
// context ends with ErrShutdown and their requests are given back. Default
// 10 s; 0 gives back at once.
func Grace(d time.Duration) Option { return func(o *options) { o.grace = d } }

// Heartbeat is how often a running request's lease is renewed. Default, and
// the most: a third of the lease.
func Heartbeat(d time.Duration) Option { return func(o *options) { o.heartbeat = d } }

// Logger takes the worker's log. Default slog.Default().
func Logger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

// Dialer connects to Redis, e.g. through a tunnel. Default: the network.
func Dialer(dial func(ctx context.Context, network, addr string) (net.Conn, error)) Option {
	return func(o *options) { o.dial = dial }
}

// ServiceOption changes how one service is answered.
type ServiceOption func(*service)

// Describe tells clients of the service what it does, at most 4 KiB, and how its
// requests and replies look: JSON schemas of at most 64 KiB each, "" for none. It
// is shown by GET /v1/services/{service} and …/openapi.json, and checks nothing.
// It holds for the service: the worker that started last is right.
func Describe(description, requestSchema, replySchema string) ServiceOption {
	return func(s *service) {
		s.description, s.requestSchema, s.replySchema = description, requestSchema, replySchema
	}
}

// Lease is how long a request stays with this worker while nothing is heard of
// it, 300 ms to 24 h: how soon another worker takes over after this one died,
// and how long a pause of this process is forgiven. It holds for all workers of
// the service. Default: what the gateway or another worker set, else 30 s.
func Lease(d time.Duration) ServiceOption {
	return func(s *service) { s.lease, s.leased = d, true }
}

// CacheTTL is for how long a reply of the service, where it is no error, answers
// requests with the same content at once, up to a week: those with the same tenant,
// content type, target and body, and the same headers where the gateway's
// configuration names some. Reply.CacheTTL is over it.
func CacheTTL(d time.Duration) ServiceOption {
	return func(s *service) { s.cacheTTL = d }
}
