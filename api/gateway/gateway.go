// Package gateway runs a gateway inside of a program of yours, so that
// interceptors can be written in Go:
//
//	g, err := gateway.Load("coatcheck.yaml", slog.Default())
//	g.Use("resize", intercept.Interceptor{Name: "quota", Request: quota})
//	err = g.Start(ctx) // returned: the port answers
//	err = g.Run(ctx)   // until ctx ends, then drains
//
// The configuration is that of `coatcheck serve`, from the file and the
// environment; redis_url must be set. Workers stand on api/worker.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"

	"github.com/coatcheck/coatcheck/api/intercept"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/gateway"
	"github.com/coatcheck/coatcheck/web"
)

// Gateway is one gateway of a deployment.
type Gateway struct {
	config  config.Config
	log     *slog.Logger
	uses    []use
	running *gateway.Gateway // nil until Start
}

type use struct {
	service      string
	interceptors []intercept.Interceptor
}

// Load reads the configuration: defaults, then the file ("" for none), then the
// environment. Errors name the key.
func Load(file string, log *slog.Logger) (*Gateway, error) {
	c, err := config.Load(file, os.Environ())
	if err != nil {
		return nil, err
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	if c.RedisURL == "" {
		return nil, errors.New("redis_url: must be set")
	}
	return &Gateway{config: c, log: log}, nil
}

// Use adds interceptors for a service, or intercept.All, after those of the
// configuration. Call it before Start.
func (g *Gateway) Use(service string, interceptors ...intercept.Interceptor) {
	g.uses = append(g.uses, use{service, interceptors})
}

// Start connects and listens. Once it returned, the port answers.
func (g *Gateway) Start(ctx context.Context) (err error) {
	g.running, err = gateway.Start(ctx, gateway.Options{
		Config: g.config, Logger: g.log, Page: web.Handler(),
		Intercept: func(c *intercept.Chain) {
			for _, u := range g.uses {
				c.Use(u.service, u.interceptors...)
			}
		},
	})
	return err
}

// Addr is where a started gateway listens.
func (g *Gateway) Addr() net.Addr { return g.running.Addr() }

// Run serves until ctx ends, then drains. Call Start first.
func (g *Gateway) Run(ctx context.Context) error { return g.running.Run(ctx) }
