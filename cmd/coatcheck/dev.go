package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api/webhook"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/demo"
	"github.com/coatcheck/coatcheck/internal/discovery"
	"github.com/coatcheck/coatcheck/internal/embedded"
	"github.com/coatcheck/coatcheck/internal/gateway"
)

const (
	devAddr      = "127.0.0.1:8080"
	devRedisAddr = "127.0.0.1:6380"
	devPorts     = 20          // how many ports above a busy default are tried
	devBacklog   = 10_000      // the embedded Redis grows slow on more
	devGrace     = time.Second // of the demo worker: what it does goes with the process anyway
	loopback4    = "127.0.0.0/8"
	loopback6    = "::1/128"
)

// dev runs everything in one process, with nothing kept.
func dev() *cobra.Command {
	var addr, redisAddr, file string
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine to try it out; nothing is kept",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var wanted config.Durability
			settings, err := settings(file, func(s *config.Config) {
				wanted = s.Durability
				forDev(s)
				if c.Flags().Changed("addr") {
					s.Addr = addr
				}
			})
			if err != nil {
				return err
			}
			if wanted != "auto" && wanted != settings.Durability {
				logger(settings.Log, os.Stderr).Warn("dev keeps nothing; durability is not used. For a gateway that keeps it: coatcheck serve", "durability", wanted)
			}
			return runDev(c, settings, redisAddr)
		},
	}
	c.Flags().StringVar(&addr, "addr", devAddr, "address to listen on; the default moves on where it is busy")
	c.Flags().StringVar(&redisAddr, "redis-addr", devRedisAddr, "address of the embedded Redis; the default moves on where it is busy")
	c.Flags().StringVar(&file, "config", "", "YAML file (or COATCHECK_CONFIG)")
	return c
}

// forDev is what dev needs beside the configuration. The demo services are named
// in it, so that the first call may come before their worker does.
func forDev(s *config.Config) {
	if s.Services == nil {
		s.Services = map[string]config.Service{}
	}
	for _, name := range demo.Services {
		own := s.Services[name] // as configured, or by the defaults
		s.Services[name] = own
	}
	s.DrainDelay = 0 // no balancer stands before it
	s.Durability, s.DurabilityAsserted = "memory", false
	s.Defaults.MaxQueued = min(s.Defaults.MaxQueued, devBacklog)
	for name, own := range s.Services {
		own.MaxQueued = min(own.MaxQueued, devBacklog)
		s.Services[name] = own
	}
	s.Callbacks.AllowCIDRs = append(s.Callbacks.AllowCIDRs, loopback4, loopback6)
	if s.Callbacks.Secret == "" {
		s.Callbacks.Secret = webhook.NewSecret()
	}
}

func runDev(c *cobra.Command, settings config.Config, redisAddr string) error {
	log := logger(settings.Log, os.Stderr)
	if settings.RedisURL != "" {
		log.Warn("dev has a Redis of its own; redis_url is not used. For a gateway on that Redis: coatcheck serve")
	}
	movable := settings.Addr == devAddr && !c.Flags().Changed("addr")
	listener, err := firstFree(settings.Addr, movable, func(a string) (net.Listener, error) { return net.Listen("tcp", a) })
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if now := listener.Addr().String(); movable && now != devAddr {
		log.Warn("the default address is busy; listening on another", "busy", devAddr, "addr", now)
	}
	redis, err := firstFree(redisAddr, !c.Flags().Changed("redis-addr"), embedded.Start)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer redis.Close()
	parts := devParts(settings)
	g, err := gateway.Start(c.Context(), gateway.Options{
		Config: settings, RedisURL: redis.URL, Listener: listener, Logger: log, Page: parts.page, Inbox: parts.inbox,
		Version: versionText(),
	})
	if err != nil {
		return err
	}
	workers, stopWorkers := context.WithCancel(context.WithoutCancel(c.Context()))
	defer stopWorkers()
	w := worker.New(redis.URL, worker.Name("demo"), worker.Logger(log), worker.Grace(devGrace))
	demo.Register(w)
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(workers); err != nil {
			log.Error("the demo worker ended", "error", err)
		}
	})
	url := "http://" + g.Addr().String()
	withdraw, err := discovery.Publish(discovery.Dev{URL: url, RedisURL: redis.URL, PID: os.Getpid()})
	if err != nil {
		log.Warn("the client commands won't find this by themselves", "error", err)
		withdraw = func() {}
	}
	defer withdraw()
	announceDev(c, url, redis.URL)
	err = g.Run(c.Context())
	stopWorkers()
	running.Wait()
	return err
}

// announceDev says what is there.
func announceDev(c *cobra.Command, url, redisURL string) {
	fmt.Fprintf(out(c), `coatcheck dev: for trying out, not for keeping: all data goes with this process.

  page    %s/ui/
  submit  curl -i %s/v1/services/echo/requests -d hi
  wait    curl -s %s/v1/services/echo/requests -H 'Prefer: wait=5' -d hi
  inbox   %s/inbox/me  (callbacks to it are shown; send one with -H 'Coatcheck-Callback-Url: %s/inbox/me')
  worker  coatcheck worker demo --redis-url %s
`, url, url, url, url, url, redisURL)
}

// firstFree opens addr, or the next free port where the default is busy.
func firstFree[T any](addr string, movable bool, open func(string) (T, error)) (T, error) {
	opened, err := open(addr)
	if err == nil || !movable || !errors.Is(err, syscall.EADDRINUSE) {
		return opened, err
	}
	host, text, _ := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(text)
	for next := port + 1; next <= port+devPorts; next++ {
		if opened, err = open(net.JoinHostPort(host, strconv.Itoa(next))); err == nil || !errors.Is(err, syscall.EADDRINUSE) {
			return opened, err
		}
	}
	return opened, fmt.Errorf("ports %d to %d of %s are busy: %w", port, port+devPorts, host, err)
}
