// Package broker is the only room that talks to Redis. It knows the keys, the
// scripts and the life of a request; nobody outside knows any of them.
//
// A gateway opens one Broker, runs its upkeep and calls it by the verbs of a
// request, in the order in which a request meets them:
//
//	b, err := broker.Open(ctx, broker.Options{URL: "redis://127.0.0.1:6379"})
//	go b.Run(ctx)
//	r, replayed, err := b.Submit(ctx, broker.Submission{…})  // 202
//	deliveries, err := b.Claim(ctx, …)                        // a worker
//	err = b.Send(ctx, delivery, broker.WorkerReply{…})        // its replies
//	report, err := b.Settle(ctx, partition)                   // a steward
//	r, err = b.Status(ctx, r.ID)                              // a client
//
// One verb is one file, and one Lua script of the same name where the verb must
// be atomic. Each script is idempotent and compare-and-set on the record, so a
// command that is sent twice, or by a process that wakes up late, does no harm.
//
// Pitfalls: a blocked read does not end with its context, only after its BLOCK
// time or with Close. All times come from Redis' clock. An error is one of the
// closed set in errors.go; what Redis said is wrapped for the log.
package broker

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// Defaults of a service, where neither the request nor the configuration says
// otherwise.
var Defaults = ServiceConfig{
	Timeout:     5 * time.Minute,
	Retention:   24 * time.Hour,
	Lease:       30 * time.Second,
	MaxAttempts: 3,
	Backoff:     time.Second,
	MaxQueued:   100_000,

	KeyConcurrency: 1,
	MaxEvents:      1000,
	MaxEventBytes:  8 << 20,
}

// Options of Open. The zero value of a field means its default.
type Options struct {
	URL        string                   // see redisurl; required
	Name       string                   // of this process among the gateways; default host-pid-random
	Partitions int                      // wanted number; default: what the deployment has, or 1
	Defaults   ServiceConfig            // for every service; zero fields from the package's Defaults
	Services   map[string]ServiceConfig // configured services; zero fields from Defaults
	IDKey      string                   // correlation.Keyring text; default: the deployment's, made by the first gateway
	MaxReply   int                      // largest final reply in bytes; default 10 MiB
	Judge      Judge                    // of final replies; default: none
	Durability Durability               // demanded of Redis; default: nothing, for who accepts nothing
	Logger     *slog.Logger             // default slog.Default()

	// Dial connects to Redis; default: the network. A test gives an in-memory one.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// ServiceConfig is what holds for the requests of one service.
type ServiceConfig struct {
	Timeout      time.Duration // accepted → outcome
	StartTimeout time.Duration // accepted → claimed; 0 for none
	RunTimeout   time.Duration // claimed → replied, each attempt; 0 for none
	Retention    time.Duration // outcome → forgotten
	Lease        time.Duration // how long a silent worker keeps its claim
	MaxAttempts  int
	Backoff      time.Duration // before the second attempt; doubles, with jitter
	MaxQueued    int           // queued and waiting requests above which Submit answers ErrQueueFull

	Concurrency    int // requests at workers at once; 0 for no limit
	KeyConcurrency int // of one concurrency key at once

	Coalesce     bool          // requests with the same content that are open together share one run
	CacheTTL     time.Duration // for how long a reply answers requests with the same content; 0 where the worker says so
	CacheHeaders []string      // names of forwarded headers that count as content

	// How many progress and partial replies of one request are kept, and how many
	// bytes of them; beyond either, the oldest go. The latest always stays.
	MaxEvents     int
	MaxEventBytes int
}

// over fills the zero fields of c from base.
func (c ServiceConfig) over(base ServiceConfig) ServiceConfig {
	pick := func(a, b time.Duration) time.Duration {
		if a > 0 {
			return a
		}
		return b
	}
	c.Timeout = pick(c.Timeout, base.Timeout)
	c.StartTimeout = pick(c.StartTimeout, base.StartTimeout)
	c.RunTimeout = pick(c.RunTimeout, base.RunTimeout)
	c.Retention = pick(c.Retention, base.Retention)
	c.Lease = pick(c.Lease, base.Lease)
	c.Backoff = pick(c.Backoff, base.Backoff)
	c.MaxAttempts = cmp.Or(c.MaxAttempts, base.MaxAttempts)
	c.MaxQueued = cmp.Or(c.MaxQueued, base.MaxQueued)
	c.Concurrency = cmp.Or(c.Concurrency, base.Concurrency)
	c.KeyConcurrency = cmp.Or(c.KeyConcurrency, base.KeyConcurrency)
	c.Coalesce = c.Coalesce || base.Coalesce
	c.CacheTTL = pick(c.CacheTTL, base.CacheTTL)
	if c.CacheHeaders == nil {
		c.CacheHeaders = base.CacheHeaders
	}
	c.MaxEvents = cmp.Or(c.MaxEvents, base.MaxEvents)
	c.MaxEventBytes = cmp.Or(c.MaxEventBytes, base.MaxEventBytes)
	return c
}

// Broker is one process' access to the correlation table. Its methods may be
// called from many goroutines.
type Broker struct {
	options Options
	name    string
	log     *slog.Logger
	redis   clients

	submits *lanes[*submission, verdict]
	reads   *lanes[readAsk, any]
	sends   *lanes[outgoing, struct{}]
	fences  *lanes[partition, struct{}]
	settled *lanes[Intent, struct{}]
	taker   taker

	shared   atomic.Pointer[deployment] // what cc:config and cc:services say; replaced as a whole
	health   atomic.Pointer[error]      // nil pointer value: healthy
	away     time.Time                  // since when Redis does not answer; of Run alone
	memories sync.Map                   // by server: memory
	keeper   keeper
	samples  sampler
	roster   roster
	tenants  tenants
	services refresher
	pauses   pauses
	counters counters
	hearing  atomic.Pointer[hearing] // nil while nobody hears of wake-ups
	found    atomic.Int64            // of a Redis Cluster: when a group had something last, ns since 1970
	closing  sync.Once

	replySize sync.Map // by partition: bytes of a reply, int64, of those that were read last

	noneIsPlain bool // of a test: all replies are left to settle.lua
}

// Open connects, agrees with the other gateways on the configuration, and
// loads the scripts. ErrUnavailable where Redis can't be reached or isn't fit
// to hold a correlation table; the text says what to change.
func Open(ctx context.Context, o Options) (*Broker, error) {
	if o.Name == "" {
		o.Name = processName()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MaxReply == 0 {
		o.MaxReply = 10 << 20
	}
	o.Defaults = o.Defaults.over(Defaults)
	if strings.ContainsAny(o.Name, " \t\r\n") {
		return nil, fmt.Errorf("name of the gateway %q: no white space allowed", o.Name)
	}
	if o.Partitions < 0 || o.Partitions > correlation.MaxPartitions {
		return nil, fmt.Errorf("partitions: %d is outside 0..%d", o.Partitions, correlation.MaxPartitions)
	}
	var err error
	if o.Durability, err = o.Durability.check(); err != nil {
		return nil, err
	}
	b := &Broker{options: o, name: o.Name, log: o.Logger}
	b.keeper.look, b.roster.read, b.services.read, b.pauses.read = newTurn(), newTurn(), newTurn(), newTurn()
	b.samples.init()
	if b.redis, err = connect(o, b.looker()); err != nil {
		return nil, err
	}
	if err := b.start(ctx); err != nil {
		if wrong := misread(ctx, o, err); wrong != nil {
			err = wrong
		}
		return nil, errors.Join(refusal(err, b.redis.nodes != nil), b.redis.close())
	}
	b.submits = newLanes(func(s *submission) string { return b.server(s.at) }, b.sendSubmits, 0)
	b.reads = newLanes(func(r readAsk) string { return b.server(b.partitionOf(r.id)) }, b.sendReads, 0)
	b.sends = newLanes(func(o outgoing) string { return b.redis.name(o.to) }, b.sendReplies, 0)
	b.fences = newLanes(b.server, b.sendFences, 0)
	b.settled = newLanes(func(i Intent) string { return b.server(b.part(i.Partition)) }, b.sendDelivered, settledLinger)
	return b, nil
}

func (b *Broker) start(ctx context.Context) error {
	if err := b.checkServer(ctx); err != nil {
		return err
	}
	if err := b.load(ctx); err != nil {
		return fault("load the scripts", err)
	}
	if err := b.configure(ctx); err != nil {
		return err
	}
	b.checkMemories(ctx)
	if err := b.startKeeping(ctx); err != nil {
		return err
	}
	if err := b.refreshServices(ctx); err != nil {
		return err
	}
	return b.refreshPaused(ctx)
}

// Close ends all connections; blocked calls return. Call it once Run and all
// other calls are over.
func (b *Broker) Close() error {
	var err error
	b.closing.Do(func() {
		b.submits.close()
		b.reads.close()
		b.sends.close()
		b.fences.close()
		b.settled.close()
		err = b.redis.close()
	})
	return err
}

// Name is how this process is known to the others.
func (b *Broker) Name() string { return b.name }

// Partitions is the present number of partitions.
func (b *Broker) Partitions() int { return b.shared.Load().partitions }

// Verify returns nil where the ID was issued to the tenant, else
// correlation.ErrForged. It asks nobody. The partition needs no look: only a
// gateway could sign for it, perhaps one that knows of more partitions already.
func (b *Broker) Verify(id correlation.ID, tenant string) error {
	return b.ring().Verify(id, tenant)
}

// Secret derives bytes that all gateways of the deployment share and nobody
// else knows, e.g. to sign stream tickets. Keys are distinct by purpose.
func (b *Broker) Secret() []byte { return b.ring()[0] }

func (b *Broker) ring() correlation.Keyring { return b.shared.Load().ring }

// mostHost is how much of a host's name is in that of a process. What is longer than 64
// bytes in a record, with a sign before it, has all of that take twice the memory.
const mostHost = 40

func processName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "gateway"
	}
	return nameOn(host)
}

func nameOn(host string) string {
	host = host[:min(len(host), mostHost)]
	var n [3]byte
	rand.Read(n[:])
	return fmt.Sprintf("%s-%d-%s", strings.Map(plain, host), os.Getpid(), hex.EncodeToString(n[:]))
}

func plain(r rune) rune {
	if r <= ' ' || r > '~' {
		return '-'
	}
	return r
}
