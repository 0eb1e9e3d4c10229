// Command coatcheck is the gateway, its demo, and a client for the shell: one
// binary. Each command is one file; the work is done in internal/.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/internal/discovery"
)

// Exit codes beside 0, so that a script can tell what happened.
const (
	exitFailed      = 1   // an outcome that is no success, a refusal of the gateway, any other error
	exitUsage       = 2   // the call or the configuration is wrong: trying again as it is can't help
	exitNoGateway   = 3   // no gateway is there, or it can't answer now: trying again later can help
	exitInterrupted = 130 // by SIGINT or SIGTERM, before there was a result
)

const exitCodes = `Exit codes: 0 done, or succeeded; 1 another outcome, or an error; 2 wrong usage or
configuration; 3 no gateway answers, try again later; 130 interrupted.`

const needsAdmin = "Its API key needs the scope admin."

// usage marks an error as one of the call or the configuration.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

func main() {
	runtime.MemProfileRate = heapSample // before anything else, or a profile is of two rates
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	root := commands()
	began := false
	root.PersistentPreRun = func(*cobra.Command, []string) { began = true }
	root.SetArgs(args)
	called, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case !began: // flags and arguments are checked before
		err = usage{fmt.Errorf("%w; see %s --help", err, called.CommandPath())}
	case errors.Is(err, client.ErrNoGateway):
		err = fmt.Errorf("%w; start it, or name another by --url or COATCHECK_URL", err)
	case errors.Is(err, discovery.ErrNone) && called.Flags().Lookup("redis-url") != nil:
		err = fmt.Errorf("%w; start one, or name the Redis of the gateways by --redis-url or COATCHECK_REDIS_URL", err)
	case errors.Is(err, discovery.ErrNone):
		err = fmt.Errorf("%w; start one with `coatcheck dev`, or name a gateway by --url or COATCHECK_URL", err)
	}
	if p, ok := errors.AsType[api.Problem](err); ok && p.Status == http.StatusUnauthorized {
		err = fmt.Errorf("%w The commands take it from COATCHECK_API_KEY.", err)
	}
	fmt.Fprintln(os.Stderr, "coatcheck:", err)
	return exitCode(err)
}

func exitCode(err error) int {
	if _, ok := errors.AsType[usage](err); ok {
		return exitUsage
	}
	if p, ok := errors.AsType[api.Problem](err); ok {
		if kind, _ := api.ProblemNamed(p.Type); kind.Retry {
			return exitNoGateway
		}
		return exitFailed
	}
	if errors.Is(err, client.ErrHeader) {
		return exitUsage
	}
	_, unanswered := errors.AsType[*url.Error](err)
	if unanswered || errors.Is(err, client.ErrNoGateway) || errors.Is(err, discovery.ErrNone) {
		return exitNoGateway
	}
	return exitFailed
}

func commands() *cobra.Command {
	root := &cobra.Command{
		Use:           "coatcheck",
		Short:         "An HTTP async-request gateway",
		Long:          "coatcheck takes HTTP requests, hands out correlation IDs, and lets workers in any\nlanguage answer over Redis streams. Start with `coatcheck dev`.\n\nWhere a gateway has API keys, the commands that call it take theirs from COATCHECK_API_KEY.\n\n" + exitCodes,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(dev(), serve(), workerCommand(), submit(), scatter(), batch(), benchCommand(), status(), wait(), reply(), replies(), tail(), cancel(), retry(), dead(), pause(), resume(), list(), services(), workers(), keys(), version())
	return root
}

// one wants exactly one argument, and calls it by its name.
func one(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		return fmt.Errorf("want one argument, the %s, and got %d", name, len(args))
	}
}

// group is a command that only has others: alone it shows them, and an unknown
// one is an error.
func group(use, short string, inner ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(inner...)
	return c
}
