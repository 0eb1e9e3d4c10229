package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/demo"
	"github.com/coatcheck/coatcheck/internal/discovery"
)

// workerCommand has the workers that come with the binary.
func workerCommand() *cobra.Command {
	return group("worker", "Answer requests", workerDemo())
}

func workerDemo() *cobra.Command {
	var url, name string
	var concurrency int
	c := &cobra.Command{
		Use:   "demo",
		Short: "Answer the demo services: echo, upper, sleep, progress, flaky, fail",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if url == "" {
				url = os.Getenv(config.Prefix + "REDIS_URL")
			}
			if url == "" {
				found, err := discovery.Find()
				if err != nil {
					return err
				}
				url = found.RedisURL
			}
			options := []worker.Option{worker.Concurrency(concurrency), worker.Version(versionText()), worker.Logger(logger(config.Default().Log, os.Stderr))}
			if name != "" {
				options = append(options, worker.Name(name))
			}
			w := worker.New(url, options...)
			demo.Register(w)
			return w.Run(c.Context())
		},
	}
	c.Flags().StringVar(&url, "redis-url", "", "Redis of the gateways (or COATCHECK_REDIS_URL); default: that of a running dev")
	c.Flags().StringVar(&name, "name", "", "consumer name, unique among live workers; default host-pid-random")
	c.Flags().IntVar(&concurrency, "concurrency", 16, "requests at once")
	return c
}
