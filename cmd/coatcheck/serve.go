package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/gateway"
	"github.com/coatcheck/coatcheck/internal/localredis"
	"github.com/coatcheck/coatcheck/web"
)

// serve runs a gateway.
func serve() *cobra.Command {
	var file string
	given := config.Config{}
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run a gateway",
		Long:  "Run a gateway on a Redis. Without one it starts the redis-server found on PATH,\nwith an append-only file in the data directory.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			changed := c.Flags().Changed
			s, err := settings(file, func(s *config.Config) {
				if changed("addr") {
					s.Addr = given.Addr
				}
				if changed("redis-url") {
					s.RedisURL = given.RedisURL
				}
				if changed("data-dir") {
					s.DataDir = given.DataDir
				}
				if changed("admin-addr") {
					s.Admin.Addr = given.Admin.Addr
				}
				if changed("partitions") {
					s.Partitions = given.Partitions
				}
				if changed("durability") {
					s.Durability = given.Durability
				}
				if changed("durability-asserted") {
					s.DurabilityAsserted = given.DurabilityAsserted
				}
			})
			if err != nil {
				return err
			}
			if s.RedisURL == "" && s.Durability.Replicas() > 0 {
				return usage{fmt.Errorf("durability: %s needs a redis_url: the redis-server that is started without one has no replicas", s.Durability)}
			}
			return runServe(c, s)
		},
	}
	d := config.Default()
	c.Flags().StringVar(&file, "config", "", "YAML file (or COATCHECK_CONFIG)")
	c.Flags().StringVar(&given.Addr, "addr", d.Addr, "address to listen on")
	c.Flags().StringVar(&given.RedisURL, "redis-url", "", "redis://, redis+sentinel:// or redis+cluster://, rediss for TLS, or unix://; without it redis-server is started")
	c.Flags().StringVar(&given.DataDir, "data-dir", d.DataDir, "where that redis-server keeps its data")
	c.Flags().StringVar(&given.Admin.Addr, "admin-addr", "", "address of a listener of its own for /metrics and profiles")
	c.Flags().IntVar(&given.Partitions, "partitions", 0, "shards of the correlation table; 0 keeps what is")
	c.Flags().StringVar((*string)(&given.Durability), "durability", string(d.Durability), "what Redis must have done before a 202: memory, local, fsync, replicated(n)\nor auto, which promises what Redis is set to")
	c.Flags().BoolVar(&given.DurabilityAsserted, "durability-asserted", false, "believe --durability where Redis does not let its settings be read")
	return c
}

func runServe(c *cobra.Command, s config.Config) error {
	log := logger(s.Log, os.Stderr)
	paceCollector()
	if s.Auth.Keys == nil {
		log.Warn("auth is none: whoever reaches this port may do everything, also pause services and work for them; configure auth.keys, or keep the port private")
	} else if len(s.Auth.Keys) == 0 {
		log.Warn("auth.keys is empty: every call is refused for want of an API key; `coatcheck keys create` prints one, and the lines to configure")
	}
	if s.RedisURL != "" && s.DataDir != config.Default().DataDir {
		log.Warn("data_dir is not used: it is of the redis-server that is started where there is no redis_url", "data_dir", s.DataDir)
	}
	if s.RedisURL == "" {
		if s.Durability == "auto" { // it has an append-only file
			s.Durability = "local"
		}
		r, err := localredis.Start(c.Context(), s.DataDir, s.Durability == "fsync", log)
		if err != nil {
			return err
		}
		defer r.Stop()
		s.RedisURL = r.URL
		log.Info("redis-server is there, and workers on this machine reach it by its socket", "redis_url", r.URL)
	}
	g, err := gateway.Start(c.Context(), gateway.Options{Config: s, Logger: log, Version: versionText(), Page: web.Handler()})
	if err != nil {
		return err
	}
	log.Info("listening", "addr", g.Addr().String())
	return g.Run(c.Context())
}
