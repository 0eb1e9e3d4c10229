// Package gateway builds the parts of a gateway, runs them, and drains them in
// reverse.
//
//	g, err := gateway.Start(ctx, gateway.Options{Config: c, …}) // returned: the port answers
//	err = g.Run(ctx)                                            // until ctx ends, then drains
//
// The order of a drain: not ready, and each answer closes its connection, so that the
// next call goes elsewhere; after the configured delay the port closed, and no new
// requests; waiters, streams and claims let go, so that their clients resume elsewhere;
// open calls finished; partitions handed over; connections to Redis closed. It is cut
// short at the configured budget.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/api/intercept"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/callback"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/httpapi"
	"github.com/coatcheck/coatcheck/internal/metrics"
	"github.com/coatcheck/coatcheck/internal/pull"
	"github.com/coatcheck/coatcheck/internal/steward"
	"github.com/coatcheck/coatcheck/internal/upstream"
	"github.com/coatcheck/coatcheck/internal/watch"
)

const (
	openRetry   = 250 * time.Millisecond // while Redis can't be reached at the start
	openTimeout = 3 * time.Second        // then the start ends: a wrong address must be seen
)

// Options of Start.
type Options struct {
	Config   config.Config
	RedisURL string       // over Config's
	Listener net.Listener // over Config.Addr
	Page     http.Handler // nil: no page
	Inbox    http.Handler // nil: not in production
	Version  string       // for the User-Agent of callbacks and the metrics
	Logger   *slog.Logger

	// Intercept adds interceptors after those of the configuration; nil: no more.
	Intercept func(*intercept.Chain)
}

// Gateway is a running gateway.
type Gateway struct {
	log      *slog.Logger
	delay    time.Duration // of budget
	budget   time.Duration
	listener net.Listener
	broker   *broker.Broker
	hub      *watch.Hub
	pull     *pull.Desk
	steward  *steward.Steward
	server   *http.Server
	api      *httpapi.Server
	admin    *admin // nil: operators look at the same listener
	parts    []part
	workers  []part // built in; they end before the rest, so that what they finish is settled
}

// part is something that runs until its context ends.
type part struct {
	name string
	run  func(context.Context) error
}

// Start connects and listens. Once it returned, the port answers. A Redis that
// can't be reached is waited for, 3 s: one that starts beside the gateway comes,
// a wrong address does not. A wrong configuration ends the start at once.
func Start(ctx context.Context, o Options) (*Gateway, error) {
	c := o.Config
	g := &Gateway{log: o.Logger, delay: c.DrainDelay, budget: c.DrainTimeout, listener: o.Listener}
	if g.listener == nil {
		l, err := net.Listen("tcp", c.Addr)
		if err != nil {
			return nil, fmt.Errorf("addr: %w", err)
		}
		g.listener = l
	}
	guard, err := callback.NewGuard(c.Callbacks.AllowCIDRs)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("callbacks.allow_cidrs: %w", err), g.listener.Close())
	}
	chain, err := chainOf(o)
	if err != nil {
		return nil, errors.Join(err, g.listener.Close())
	}
	if g.broker, err = open(ctx, brokerOptions(o, chain)); err != nil {
		return nil, errors.Join(err, g.listener.Close())
	}
	g.warnOfIdle(ctx)
	g.hub, g.pull = watch.New(g.broker, o.Logger), pull.New(g.broker, o.Logger)
	g.steward = steward.New(g.broker, o.Logger)
	g.parts = []part{{"broker", g.broker.Run}, {"watch", g.hub.Run}, {"pull", g.pull.Run}, {"steward", g.steward.Run}}
	numbers := metrics.Sources{
		Open: func() (int64, int64) { return g.api.Open() }, Claims: g.pull.Waiting, Held: g.steward.Held,
		Told: func() map[string]int64 { return g.api.Problems() }, Version: o.Version,
	}
	check := func(string) error {
		return errors.New("this gateway has no callbacks.secret to sign with, so it sends none")
	}
	if c.Callbacks.Secret != "" {
		d, err := callback.New(g.broker, callback.Options{
			Guard: guard, Secrets: strings.Fields(c.Callbacks.Secret), PublicURL: c.PublicURL, Version: o.Version, Logger: o.Logger,
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("callbacks.secret: %w", err), g.broker.Close(), g.listener.Close())
		}
		g.parts = append(g.parts, part{"callback", d.Run})
		numbers.Sent, check = d.Stats, guard.CheckURL
	}
	for name, s := range c.Services {
		if s.Upstream == "" {
			continue
		}
		u, err := upstream.New(upstream.Options{
			RedisURL: brokerOptions(o, chain).URL, Service: name, URL: s.Upstream, Concurrency: s.UpstreamConcurrency,
			MaxReply: int(c.MaxBody), Name: g.broker.Name() + "/" + name, Logger: o.Logger,
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("services.%s.upstream: %w", name, err), g.broker.Close(), g.listener.Close())
		}
		g.workers = append(g.workers, part{"upstream " + name, u.Run})
	}
	g.api = httpapi.New(httpapi.Options{
		Broker: g.broker, Hub: g.hub, Pull: g.pull, Logger: o.Logger, Keys: c.Auth.Keys, PublicURL: c.PublicURL,
		MaxBody: int64(c.MaxBody), Inflight: int64(c.MaxInflight), Bounds: httpapi.Bounds(c.Bounds),
		Upstreams: upstreams(c), Chain: chain, Redact: redact(c), CheckCallback: check, Metrics: metrics.New(g.broker, numbers), AdminApart: c.Admin.Addr != "", Page: o.Page, Inbox: o.Inbox,
	})
	g.server = httpapi.NewHTTPServer(g.api, o.Logger)
	g.server.RegisterOnShutdown(g.hub.Drain) // then each answer closes its connection, and says so
	g.server.RegisterOnShutdown(g.pull.Drain)
	if c.Admin.Addr != "" {
		if g.admin, err = newAdmin(c.Admin.Addr, g.api, o.Logger); err != nil {
			return nil, errors.Join(err, g.broker.Close(), g.listener.Close())
		}
		g.parts = append(g.parts, part{"admin", g.admin.Run})
	}
	return g, nil
}

// open retries while Redis is away; everything else is the operator's to mend.
func open(ctx context.Context, o broker.Options) (*broker.Broker, error) {
	ctx, stop := context.WithTimeout(ctx, openTimeout)
	defer stop()
	var away error
	for {
		b, err := broker.Open(ctx, o)
		if err == nil || !errors.Is(err, broker.ErrUnavailable) {
			return b, err
		}
		if away == nil { // the last try may only say that its time was cut short
			away = err
		}
		select {
		case <-ctx.Done():
			if errors.Is(away, broker.ErrUndurable) { // it answers, and that says what to do
				return nil, fmt.Errorf("%w; waited for %v", away, openTimeout)
			}
			return nil, fmt.Errorf("%w; tried for %v: is redis_url right, and does that Redis run?", away, openTimeout)
		case <-time.After(openRetry):
		}
	}
}

// warnOfIdle says once, at the start, that masters of a Redis Cluster are there for nothing.
func (g *Gateway) warnOfIdle(ctx context.Context) {
	if masters, idle, err := g.broker.Idle(ctx); err == nil && idle > 0 {
		g.log.Warn("masters of the Redis Cluster have no partition to serve: each partition lives on one. Start a gateway with more, as 16 for 3 to 8 masters; all others follow while they run, and they can't become fewer",
			"masters", masters, "idle", idle, "partitions", g.broker.Partitions())
	}
}

func brokerOptions(o Options, chain *intercept.Chain) broker.Options {
	c := o.Config
	b := broker.Options{
		URL: c.RedisURL, Partitions: c.Partitions, Defaults: broker.ServiceConfig(c.Defaults), IDKey: c.IDKey,
		MaxReply: int(c.MaxBody), Judge: judge(chain), Durability: durability(c), Logger: o.Logger, Services: map[string]broker.ServiceConfig{},
	}
	if o.RedisURL != "" {
		b.URL = o.RedisURL
	}
	for name, s := range c.Services {
		b.Services[name] = broker.ServiceConfig(s.Limits)
	}
	return b
}

func durability(c config.Config) broker.Durability {
	return broker.Durability{
		Mode: broker.Mode(c.Durability.Mode()), Replicas: c.Durability.Replicas(), Wait: c.DurabilityWait, Asserted: c.DurabilityAsserted,
	}
}

// upstreams are the services that an HTTP backend answers.
func upstreams(c config.Config) map[string]bool {
	answered := map[string]bool{}
	for name, s := range c.Services {
		answered[name] = s.Upstream != ""
	}
	return answered
}

// Addr is where it listens.
func (g *Gateway) Addr() net.Addr { return g.listener.Addr() }

// Run serves until ctx ends, then drains. It ends at once where a later version has taken
// over the data: to go on would be to drop requests that only that one understands.
func (g *Gateway) Run(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var parts, workers sync.WaitGroup
	outdated := make(chan error, 1) // at most one part tells of it
	begin := func(ctx context.Context, group *sync.WaitGroup, all []part) {
		for _, p := range all {
			group.Go(func() {
				err := p.run(ctx)
				if err != nil {
					g.log.Error("a part of the gateway ended", "part", p.name, "error", err)
				}
				if errors.Is(err, broker.ErrProtocol) {
					outdated <- err
				}
			})
		}
	}
	begin(running, &parts, g.parts)
	working, endWork := context.WithCancel(ctx)
	defer endWork()
	begin(working, &workers, g.workers)
	served := make(chan error, 1)
	go func() { served <- g.server.Serve(httpapi.Listener(g.listener)) }()
	var err error
	select {
	case <-ctx.Done():
		g.drain()
	case err = <-served:
	case err = <-outdated:
		stop()
		g.server.Close()
	}
	endWork()
	workers.Wait()
	stop()
	parts.Wait()
	if closing := g.broker.Close(); err == nil {
		err = closing
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return err
}

func (g *Gateway) drain() {
	g.log.Info("draining")
	ctx, stop := context.WithTimeout(context.Background(), g.budget)
	defer stop()
	g.api.Leave()
	time.Sleep(g.delay) // balancers that probe see it meanwhile, and who has a connection is told to close it
	g.api.Drain()
	if err := errors.Join(g.server.Shutdown(ctx), g.api.Wait(ctx)); err != nil {
		g.log.Warn("open calls did not end in time and are cut", "error", err)
		g.server.Close()
	}
}
