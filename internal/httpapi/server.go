// Package httpapi is the HTTP front door: it reads calls, asks the broker, and
// writes answers. It keeps no state of a request; any replica answers any ID.
//
// Start at routes.go: one line is one operation, and its file has the same
// name. A handler returns an error; handle.go has the one table from errors to
// problem documents. What a client reads and what the log reads are apart.
//
// Pitfalls: bodies and replies are opaque bytes, never decoded here. After the
// commit of a submit nothing depends on the client's connection any more. A
// stream must not outlive the drain, or the server never stops.
package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/intercept"
	"github.com/coatcheck/coatcheck/internal/auth"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/pull"
	"github.com/coatcheck/coatcheck/internal/sse"
	"github.com/coatcheck/coatcheck/internal/watch"
)

// Options of New. Broker, Hub, Pull and Logger are required.
type Options struct {
	Broker    *broker.Broker
	Hub       *watch.Hub
	Pull      *pull.Desk
	Logger    *slog.Logger
	Keys      auth.Keys // nil: no API keys are needed
	PublicURL string    // stands before links; "" makes them paths
	MaxBody   int64     // bytes of one request body; default 10 MiB
	Inflight  int64     // bytes of all bodies in memory at once, see body.go; default 256 MiB
	Bounds    Bounds    // default: DefaultBounds

	Upstreams     map[string]bool        // services that an HTTP backend answers
	Chain         *intercept.Chain       // looks at each request before it is queued; nil: none
	Redact        map[string][]string    // JSON Pointers of what is not shown to people, by service, "*" for all
	CheckCallback func(url string) error // refuses a callback URL; nil: none are taken
	Metrics       http.Handler           // at /metrics; nil: nowhere
	AdminApart    bool                   // /metrics is at Admin alone
	Page          http.Handler           // at /ui/ and /docs; nil: no page
	Inbox         http.Handler           // at /inbox/; nil: not in production
}

// Bounds are what a request may ask for.
type Bounds struct {
	MinTimeout, MaxTimeout     time.Duration
	MinRetention, MaxRetention time.Duration
	MaxDelay                   time.Duration
}

// DefaultBounds hold where none are configured.
var DefaultBounds = Bounds{
	MinTimeout: 100 * time.Millisecond, MaxTimeout: 24 * time.Hour,
	MinRetention: time.Second, MaxRetention: 7 * 24 * time.Hour,
	MaxDelay: 7 * 24 * time.Hour,
}

// Limits of the front door.
const (
	defaultMaxBody  = 10 << 20
	defaultInflight = 256 << 20
	bodyTimeout     = 30 * time.Second // a body that is slower holds memory for too long
	longestWait     = 60 * time.Second // of one call; proxies cut silent ones at about this age
	submitTimeout   = 10 * time.Second // above the broker's own limits
	writeTimeout    = 10 * time.Second // a raw reply's reader has as long to begin
	ticketLife      = 5 * time.Minute  // long enough for reconnects, short for a URL that is in some log
	replyFloor      = 32 << 10         // bytes a second; a raw reply's reader that is slower is dropped
)

// Server answers the calls of the contract.
type Server struct {
	Options
	inflight  *semaphore.Weighted
	deadlines deadlines
	leaving   atomic.Bool
	draining  atomic.Bool
	waiting   atomic.Int64
	streams   atomic.Int64
	idle      *sse.Idle
	told      map[string]*atomic.Int64 // problems by slug; all of them from the beginning
	handler   http.Handler
}

// New builds the front door. It serves nothing by itself.
func New(o Options) *Server {
	if o.MaxBody == 0 {
		o.MaxBody = defaultMaxBody
	}
	if o.Inflight == 0 {
		o.Inflight = defaultInflight
	}
	o.Inflight = max(o.Inflight, o.MaxBody+bodyChunk) // or the largest body would never get its turn
	if o.Bounds == (Bounds{}) {
		o.Bounds = DefaultBounds
	}
	s := &Server{Options: o, inflight: semaphore.NewWeighted(o.Inflight), idle: sse.NewIdle(o.Hub.Draining, o.Logger), told: map[string]*atomic.Int64{}}
	for _, kind := range api.Problems {
		s.told[kind.Slug] = new(atomic.Int64)
	}
	s.handler = s.logged(s.routes())
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Leave makes the gateway not ready, and has each answer close its connection, so that
// clients make their next call elsewhere. All calls are still answered.
func (s *Server) Leave() { s.leaving.Store(true) }

// Drain refuses new requests as well; open waits and streams end with the hub's
// drain.
func (s *Server) Drain() {
	s.Leave()
	s.draining.Store(true)
}

// part asks the client for another connection where this gateway is about to stop. To
// close an idle one, or one that a call is on its way on, would break that call.
func (s *Server) part(w http.ResponseWriter) {
	if s.leaving.Load() {
		w.Header().Set("Connection", "close") // RFC 9112, section 9.6
	}
}

// Wait returns once the hub's drain has ended the streams that http.Server.Shutdown
// knows nothing of. Those that are open when ctx ends are cut; then it is an error.
func (s *Server) Wait(ctx context.Context) error { return s.idle.Wait(ctx) }

// Open is how many calls wait and how many streams are open, for the metrics.
func (s *Server) Open() (waiting, streams int64) { return s.waiting.Load(), s.streams.Load() }

// Problems is how many calls, and items of batches, were answered with each problem.
func (s *Server) Problems() map[string]int64 {
	counts := make(map[string]int64, len(s.told))
	for slug, n := range s.told {
		counts[slug] = n.Load()
	}
	return counts
}
