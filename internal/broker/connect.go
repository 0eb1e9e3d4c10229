package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redisurl"
)

// Limits of the connections to Redis.
const (
	dialTimeout    = 600 * time.Millisecond          // with one attempt, so that a submit can say 503 within a second
	commandTimeout = 3 * time.Second                 // a healthy Redis answers within milliseconds; a fork or a slow disk may take this long
	commandPool    = 32                              // hot paths share pipelines; these serve the single reads beside them
	blockingPool   = 256 + correlation.MaxPartitions // at most: each blocked reader holds one, a steward one a partition
	blockedSlack   = 2 * time.Second                 // beyond its block; a Redis that stalls for longer may hand work to nobody, until the lease ends
	longestBlock   = 2 * time.Second                 // a cancelled context does not interrupt a blocked read
)

// clients are apart because a blocked read must not keep a command waiting for
// a connection, and a re-sent read is harmless where a re-sent claim is not.
type clients struct {
	commands redis.UniversalClient // scripts and reads; never re-sent by the library
	blocking redis.UniversalClient // XREAD and XREADGROUP with BLOCK
	pubsub   redis.UniversalClient // subscriptions
	nodes    *nodes                // of a Redis Cluster; nil where there is one server
}

// patience bounds a blocked read: go-redis gives it ten seconds more than it asks
// for, and that long a connection that is half-open would go unnoticed.
func patience(ctx context.Context, block time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, max(block, 0)+blockedSlack)
}

// silence is the library's own log: it writes to stderr for every failed dial,
// dozens a second during an outage that Run reports once.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

var silenceOnce = sync.OnceFunc(func() { redis.SetLogger(silence{}) })

// connect makes the clients. looked, where there is one, is called with each new
// connection for commands, before it is used, and with the node of a Redis Cluster.
func connect(o Options, looked func(context.Context, redis.Cmdable, string)) (clients, error) {
	silenceOnce()
	t, err := redisurl.Parse(o.URL)
	if err != nil {
		return clients{}, fmt.Errorf("the Redis URL %w", err)
	}
	if t.TLS != nil && t.TLS.Unverified {
		o.Logger.Warn("the certificate of Redis is not verified, since its URL says skip_verify: whoever is between can read and change all. Name the authority by ca in its place")
	}
	all := &suspects{conns: map[*suspect]struct{}{}}
	commands := setting{target: t, dial: all.dialer(t, o.Dial), looked: looked, pool: commandPool, timeout: commandTimeout}
	blocking := commands
	blocking.looked, blocking.pool, blocking.timeout = nil, blockingPool, longestBlock+commandTimeout
	pubsub := commands
	pubsub.looked, pubsub.dial = nil, dialerOf(t, o.Dial)
	if t.Kind != redisurl.Cluster {
		return clients{commands: commands.client(), blocking: blocking.client(), pubsub: pubsub.client()}, nil
	}
	n := &nodes{}
	all.opaque = true
	return clients{n.client(commands), n.client(blocking), n.client(pubsub), n}, nil
}

// setting is what the clients differ by.
type setting struct {
	target  redisurl.Target
	dial    dialer
	looked  func(ctx context.Context, c redis.Cmdable, node string)
	pool    int
	timeout time.Duration // of a read
}

// client is one for a single server: a given one, or the master that Sentinels name.
func (s setting) client() redis.UniversalClient {
	t := s.target
	o := &redis.Options{
		Network: t.Network, Addr: t.Addrs[0], Username: t.User, Password: t.Password, DB: t.DB,
		Dialer:          s.dial,
		Protocol:        2, // scripts return flat arrays; nothing of RESP3 is used
		DisableIdentity: true, MaintNotificationsConfig: noNotifications,
		DialTimeout: dialTimeout, DialerRetries: 1, ReadTimeout: s.timeout, WriteTimeout: commandTimeout,
		ContextTimeoutEnabled: true, MaxRetries: -1, PoolSize: s.pool, PoolTimeout: dialTimeout,
	}
	if s.looked != nil {
		o.OnConnect = func(ctx context.Context, c *redis.Conn) error {
			s.looked(ctx, c, "")
			return nil
		}
	}
	if t.Kind == redisurl.Server {
		return redis.NewClient(o)
	}
	return redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: t.Master, SentinelAddrs: t.Addrs, SentinelUsername: t.SentinelUser, SentinelPassword: t.SentinelPassword,
		Username: o.Username, Password: o.Password, DB: o.DB, Dialer: o.Dialer, OnConnect: o.OnConnect,
		Protocol: o.Protocol, DisableIdentity: true,
		DialTimeout: o.DialTimeout, DialerRetries: 1, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout,
		ContextTimeoutEnabled: true, MaxRetries: -1, PoolSize: o.PoolSize, PoolTimeout: o.PoolTimeout,
	})
}

var noNotifications = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}

func (c clients) close() error {
	return errors.Join(c.blocking.Close(), c.pubsub.Close(), c.commands.Close())
}

// fault wraps what go-redis returned into the closed set of this room.
func fault(doing string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("%s: %w", doing, ErrClosed)
	}
	if strings.HasPrefix(err.Error(), "OOM") {
		return fmt.Errorf("%s: %w", doing, ErrMemory)
	}
	if said, ok := errors.AsType[redis.Error](err); ok && !errors.Is(err, redis.Nil) { // what was not found, such as a master by Sentinels, was not refused
		return fmt.Errorf("%s: %w", doing, saidNo{said})
	}
	return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
}

// saidNo is what Redis said instead of doing it, such as READONLY or LOADING: an
// ErrUnavailable, but it can be reached, and who reads the log shall not look for it.
type saidNo struct{ said redis.Error }

func (n saidNo) Error() string        { return "Redis refuses: " + n.said.Error() }
func (n saidNo) Is(target error) bool { return target == ErrUnavailable }
func (n saidNo) Unwrap() error        { return n.said }

// unsent tells whether a command certainly had no effect: it never left, or
// Redis refused it as a whole.
func unsent(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	if errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrClosed) || errors.Is(err, errDown) {
		return true
	}
	if stopped, ok := errors.AsType[scriptError](err); ok {
		return stopped.unwritten()
	}
	return saidByRedis(err)
}

// saidByRedis tells an error that Redis itself answered with from one of the
// connection.
func saidByRedis(err error) bool {
	var refused redis.Error
	return errors.As(err, &refused)
}

// lostGroup tells whether Redis lost a stream's group: it was flushed, or came
// back without its data.
func lostGroup(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "NOGROUP") || strings.Contains(err.Error(), "UNBLOCKED"))
}

// A half-open connection says nothing for ever: a subscription that was silent is
// probed, and one that does not answer is given up.
const (
	pubsubSilence = 1500 * time.Millisecond
	pubsubAnswer  = 2 * time.Second
)

type (
	subscription = redis.Subscription
	published    = redis.Message
	poolStats    = redis.PoolStats
	intCmd       = redis.IntCmd
)

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
