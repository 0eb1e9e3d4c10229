// Command coatcheck is the gateway, its demo, and a client for the shell: one
// binary. Each command is one file; the work is done in internal/.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes beside 0: something failed, and the call or the configuration was
// wrong, so that trying again as it is can't help.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usage marks an error as one of the call or the configuration.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	root := command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "coatcheck:", err)
	if _, ok := errors.AsType[usage](err); ok {
		return exitUsage
	}
	return exitFailed
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "coatcheck",
		Short:         "An HTTP async-request gateway",
		Long:          "coatcheck takes HTTP requests, hands out correlation IDs, and lets workers in any\nlanguage answer over Redis streams. Start with `coatcheck dev`.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage{err} })
	root.AddCommand(dev(), serve(), workerCommand(), submit(), status(), wait(), tail(), cancel(), keys(), version())
	return root
}
