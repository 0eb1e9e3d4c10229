package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/command"
	"github.com/coatcheck/coatcheck/internal/config"
)

const execLong = `Answer the requests of a service by running a command for each.

The body is on its standard input, its standard output is the reply. Exit code 0
is success, 75 asks for another attempt, any other is a failure. Standard error
goes to the log, its end to the client where the request fails. Each line on file
descriptor 3 is a progress event: JSON as it is, anything else as text.

In its environment: COATCHECK_CORRELATION_ID, COATCHECK_ATTEMPT, COATCHECK_SERVICE,
COATCHECK_CONTENT_TYPE, COATCHECK_DEADLINE (Unix milliseconds), COATCHECK_HEADER_* (the
forwarded headers, e.g. COATCHECK_HEADER_ACCEPT_LANGUAGE), and TRACEPARENT where the
request has one.

When the request is canceled or runs out of time, and when the worker ends, the
command and its children get SIGTERM, then SIGKILL. Its request is given to
another worker in the last case.`

// workerExec answers a service by a command.
func workerExec() *cobra.Command {
	var url, name string
	var concurrency int
	var cacheTTL time.Duration
	var grace time.Duration
	o := command.Options{Logger: logger(config.Default().Log, os.Stderr)}
	var maxReply string
	c := &cobra.Command{
		Use:     "exec SERVICE [flags] -- COMMAND [ARGUMENT]...",
		Short:   "Answer a service by running a command for each request",
		Long:    execLong,
		Example: `  coatcheck worker exec shout --content-type text/plain -- tr a-z A-Z`,
		Args: func(c *cobra.Command, args []string) error {
			if c.ArgsLenAtDash() != 1 || len(args) < 2 {
				return errors.New("want a service, then --, then the command with its arguments")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if !api.ValidService(args[0]) {
				return usage{fmt.Errorf("service %q: want %s", args[0], api.ServiceNames)}
			}
			var limit config.Size
			if err := limit.UnmarshalText([]byte(maxReply)); err != nil {
				return usage{fmt.Errorf("--max-reply: %w", err)}
			}
			if limit < 1 || o.KillAfter <= 0 {
				return usage{errors.New("--max-reply and --kill-after must be above 0")}
			}
			o.Args, o.MaxReply = args[1:], int(limit)
			program, err := command.New(o)
			if err != nil {
				return usage{err}
			}
			url, err := redisURL(url)
			if err != nil {
				return err
			}
			options := []worker.Option{worker.Concurrency(concurrency), worker.Grace(grace), worker.Logger(o.Logger)}
			if name != "" {
				options = append(options, worker.Name(name))
			}
			w := worker.New(url, options...)
			w.Handle(args[0], program.Handle, worker.CacheTTL(cacheTTL))
			defer program.Wait() // a command that was given back may still be on its way out
			return w.Run(c.Context())
		},
	}
	redisFlag(c, &url)
	c.Flags().StringVar(&name, "name", "", "consumer name, unique among live workers; default host-pid-random")
	c.Flags().IntVar(&concurrency, "concurrency", 1, "commands at once")
	c.Flags().StringVar(&o.ContentType, "content-type", "application/octet-stream", "content type of the reply")
	c.Flags().DurationVar(&cacheTTL, "cache-ttl", 0, "for how long a reply answers requests with the same content; 0 leaves it to the service")
	c.Flags().StringVar(&maxReply, "max-reply", config.Size(command.DefaultMaxReply).String(), "largest reply; not above the max_body of the gateways")
	c.Flags().DurationVar(&grace, "grace", worker.DefaultGrace, "how long running commands may go on when the worker is told to end")
	c.Flags().DurationVar(&o.KillAfter, "kill-after", command.DefaultKillAfter, "from SIGTERM to SIGKILL")
	return c
}
