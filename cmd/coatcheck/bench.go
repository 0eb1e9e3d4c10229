package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/internal/bench"
	"github.com/coatcheck/coatcheck/internal/config"
)

// longestBench bounds a bench that was told of a number of requests alone.
const longestBench = 10 * time.Minute

// benchFlags are what a user says of a load.
type benchFlags struct {
	target
	options      bench.Options
	key, via     string
	body         string // a size
	expectations []string
}

// benchCommand makes load.
func benchCommand() *cobra.Command {
	var f benchFlags
	c := &cobra.Command{
		Use:   "bench",
		Short: "Make load, and check every reply",
		Long: `Submit requests to a gateway, see their replies, and count those that are lost,
doubled, wrong or out of order. The service must give back what it gets, as the echo of
dev does. Without --rate each client submits again as soon as it has its reply: that tells
how much the gateway carries. With --rate requests begin on a schedule, and each latency
counts from the scheduled instant: that tells how long a reply takes.

Callbacks come to a listener of its own, on this machine, so the gateway must allow its
network (callbacks.allow_cidrs); they are verified with COATCHECK_CALLBACKS_SECRET.

An expectation is a metric, one of < <= > >= =, and a bound, such as 'p99<50ms',
'rate>1000' or 'lost=0'; where it is not met, the exit code is 1. The metrics: p50, p99,
p99.9 (any percentile), mean and max of the latency, with accept_ before them of that of
the 202 alone, rate, requests, sent, accepted, answered, failed, lost, doubled, wrong,
out_of_order, refused, errors.

` + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	f.target.flags(c)
	o, flags := &f.options, c.Flags()
	flags.StringVar(&f.key, "api-key", "", "API key; better in COATCHECK_API_KEY, since everybody on the machine sees a flag")
	flags.StringVar(&o.Service, "service", "echo", "service that gives back what it gets")
	flags.StringVar(&f.via, "via", string(bench.Wait), "how the reply is seen: submit (not at all: the 202 alone), poll, wait, sse or webhook")
	flags.IntVar(&o.Clients, "clients", 64, "connections, each with one request open at a time")
	flags.Float64Var(&o.Rate, "rate", 0, "requests a second; 0 for as many as the clients can")
	flags.DurationVar(&o.Duration, "duration", 10*time.Second, "for how long; with --requests at most 10m")
	flags.IntVar(&o.Requests, "requests", 0, "how many at most; 0 for no such bound")
	flags.DurationVar(&o.Warmup, "warmup", time.Second, "before anything is measured; none with --requests")
	flags.StringVar(&f.body, "body", "1KiB", "size of a body")
	flags.DurationVar(&o.PollEvery, "poll-every", 100*time.Millisecond, "between two polls")
	flags.DurationVar(&o.Timeout, "timeout", 30*time.Second, "for one reply, which counts as lost then")
	flags.StringVar(&o.Receiver.Listen, "callback-addr", "127.0.0.1:0", "address to listen on for callbacks")
	flags.StringVar(&o.Receiver.URL, "callback-url", "", "how the gateway reaches it; default http:// and that address")
	flags.StringArrayVar(&f.expectations, "expect", nil, "what must be, such as 'p99<50ms'; may be given more than once")
	return c
}

func (f *benchFlags) run(c *cobra.Command) error {
	checks, err := bench.ParseChecks(f.expectations)
	if err != nil {
		return usage{err}
	}
	var size config.Size
	if err := size.UnmarshalText([]byte(f.body)); err != nil {
		return usage{fmt.Errorf("body: %w", err)}
	}
	o := f.options
	if o.URL, err = f.gateway(); err != nil {
		return err
	}
	o.APIKey = cmp.Or(f.key, os.Getenv(config.Prefix+"API_KEY"))
	o.Via, o.Body = bench.Via(f.via), int(size)
	o.Receiver.Secrets = strings.Fields(os.Getenv(config.Prefix + "CALLBACKS_SECRET"))
	if o.Via == bench.Webhook && len(o.Receiver.Secrets) == 0 {
		return usage{errors.New("callbacks are verified with the gateway's secret: set " + config.Prefix + "CALLBACKS_SECRET here as there")}
	}
	if changed := c.Flags().Changed; o.Requests > 0 {
		if !changed("duration") {
			o.Duration = longestBench
		}
		if !changed("warmup") {
			o.Warmup = 0
		}
	}
	o.Progress = func(p bench.Progress) { fmt.Fprintln(os.Stderr, p.Text()) }
	result, err := bench.Run(c.Context(), o)
	switch {
	case errors.Is(err, bench.ErrOptions):
		return usage{err}
	case errors.Is(err, bench.ErrNoGateway):
		return fmt.Errorf("%w: %w", client.ErrNoGateway, err)
	case err != nil && c.Context().Err() == nil:
		return err
	}
	verdicts, met := bench.Judge(&result, checks)
	if printing := f.print(out(c), &result, verdicts); printing != nil {
		return printing
	}
	if err == nil && !met {
		err = errors.New("an expectation is not met")
	}
	return err
}

// print writes the result, and what came of the expectations.
func (f *benchFlags) print(w io.Writer, r *bench.Result, verdicts []bench.Verdict) error {
	if f.output == "table" {
		if err := r.WriteTable(w); err != nil {
			return err
		}
		return bench.WriteVerdicts(w, verdicts)
	}
	encoder := json.NewEncoder(w)
	if f.output == "json" {
		encoder.SetIndent("", "  ")
	}
	return encoder.Encode(struct {
		*bench.Result
		Expectations []bench.Verdict `json:"expectations,omitempty"`
	}{r, verdicts})
}
