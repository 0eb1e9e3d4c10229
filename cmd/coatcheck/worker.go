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
	return group("worker", "Answer requests", workerDemo(), workerExec(), workerConformance())
}

// redisFlag is the flag that redisURL looks at first.
func redisFlag(c *cobra.Command, url *string) {
	c.Flags().StringVar(url, "redis-url", "", "Redis of the gateways (or COATCHECK_REDIS_URL); default: that of a running dev")
}

// redisURL is the Redis that a worker works on: as it was told, or that of the
// dev that runs here.
func redisURL(told string) (string, error) {
	if told == "" {
		told = os.Getenv(config.Prefix + "REDIS_URL")
	}
	if told != "" {
		return told, nil
	}
	found, err := discovery.Find()
	return found.RedisURL, err
}

func workerDemo() *cobra.Command {
	var url, name string
	var concurrency int
	c := &cobra.Command{
		Use:   "demo",
		Short: "Answer the demo services: echo, upper, sleep, progress, flaky, fail",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			url, err := redisURL(url)
			if err != nil {
				return err
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
	redisFlag(c, &url)
	c.Flags().StringVar(&name, "name", "", "consumer name, unique among live workers; default host-pid-random")
	c.Flags().IntVar(&concurrency, "concurrency", 16, "requests at once")
	return c
}
