package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/conformance"
)

const conformanceLong = `Run a worker through its duties: submit requests to its service, and look at what
comes of them. The worker may be in any language; its handler does what these
requests ask for, see api/worker/README.md. The service is for the run alone.

With --start the worker is started, killed, stopped and started again as its
duties need; without it those are not run, and said not to be. Where the gateway
has API keys, COATCHECK_API_KEY needs the scopes submit, read, cancel and work.

A line a duty: ✓ it passed, ✗ it failed, with what was expected and what was seen,
– it was not run, and why. The exit code is 0 where all that ran passed.`

// workerConformance runs any worker through its duties.
func workerConformance() *cobra.Command {
	var t target
	var o conformance.Options
	c := &cobra.Command{
		Use:     "conformance --service NAME",
		Short:   "Run any worker through its duties, and print a table",
		Long:    conformanceLong + "\n\n" + exitCodes,
		Example: `  coatcheck worker conformance --service shout --start 'python3 worker.py shout'`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !api.ValidService(o.Service) {
				return usage{fmt.Errorf("--service %q: want %s", o.Service, api.ServiceNames)}
			}
			if o.Patience <= 0 {
				return usage{errors.New("--patience must be above 0")}
			}
			if err := o.Check(); err != nil {
				return usage{err}
			}
			gateway, err := t.gateway()
			if err != nil {
				return err
			}
			o.URL, o.APIKey, o.Output = gateway, os.Getenv(config.Prefix+"API_KEY"), os.Stderr
			encoder := json.NewEncoder(out(c))
			o.Report = func(r conformance.Result) {
				switch t.output {
				case "table":
					fmt.Fprintln(out(c), r)
				case "jsonl":
					_ = encoder.Encode(r) // strings and numbers can be, and a closed pipe ends the process
				}
			}
			results, err := conformance.Run(c.Context(), o)
			if err != nil {
				return err
			}
			if t.output == "json" {
				encoder.SetIndent("", "  ")
				if err := encoder.Encode(results); err != nil {
					return err
				}
			}
			return conclusion(results)
		},
	}
	t.flags(c)
	c.Flags().StringVar(&o.Service, "service", "", "service of the worker, for this run alone")
	c.Flags().StringVar(&o.Start, "start", "", "command that starts the worker, as a shell reads it after exec: env NAME=VALUE … sets variables; it gets SIGTERM, SIGKILL and SIGSTOP")
	c.Flags().DurationVar(&o.Patience, "patience", conformance.DefaultPatience, "how long anything may take that a worker does at once")
	c.Flags().StringSliceVar(&o.Only, "only", nil, "duties to run: "+strings.Join(conformance.Duties(), ", "))
	c.Flags().StringSliceVar(&o.Skip, "skip", nil, "duties not to run, e.g. cancel for a worker that just finishes")
	return c
}

// conclusion makes a duty that failed an error, and that none was run.
func conclusion(results []conformance.Result) error {
	ran, failed := 0, []string(nil)
	for _, r := range results {
		if r.Verdict != conformance.Skipped {
			ran++
		}
		if r.Verdict == conformance.Failed {
			failed = append(failed, r.Duty)
		}
	}
	if ran == 0 {
		return errors.New("no duty was run")
	}
	if failed != nil {
		return fmt.Errorf("%d of %d duties failed: %s", len(failed), ran, strings.Join(failed, ", "))
	}
	return nil
}
