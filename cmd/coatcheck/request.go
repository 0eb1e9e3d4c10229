package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api/client"
)

// requestFlags are the body and the options of a request, the same for all
// commands that submit one.
type requestFlags struct {
	data    string
	headers []string
	request client.Request
}

func (f *requestFlags) flags(c *cobra.Command) {
	r, flags := &f.request, c.Flags()
	flags.StringVarP(&f.data, "data", "d", "", "the body; @FILE reads a file, @- standard input")
	flags.StringArrayVarP(&f.headers, "header", "H", nil, "a further `HEADER`, such as X-Page: 2; again for more")
	flags.StringVar(&r.ContentType, "content-type", "application/json", "content type of the body")
	flags.StringVar(&r.IdempotencyKey, "idempotency-key", "", "the same key and body give the same request")
	flags.StringVar(&r.CallbackURL, "callback-url", "", "where to post the outcome")
	flags.StringSliceVar(&r.CallbackEvents, "callback-events", nil, "what to post: succeeded, failed, timed_out, canceled, progress (default the four outcomes)")
	flags.DurationVar(&r.Timeout, "timeout", 0, "accepted to outcome; 0 leaves what the gateway has set")
	flags.DurationVar(&r.StartTimeout, "start-timeout", 0, "accepted to claimed by a worker; 0 leaves what the gateway has set")
	flags.DurationVar(&r.RunTimeout, "run-timeout", 0, "claimed to replied, each attempt; 0 leaves what the gateway has set")
	flags.DurationVar(&r.Retention, "retention", 0, "outcome to forgotten; 0 leaves what the gateway has set")
	flags.IntVar(&r.MaxAttempts, "max-attempts", 0, "attempts before it fails; 0 leaves what the gateway has set")
	flags.DurationVar(&r.Backoff, "backoff", 0, "before the second attempt, doubling; 0 leaves what the gateway has set")
	flags.DurationVar(&r.Delay, "delay", 0, "not before; the other clocks start when it is over")
	flags.StringVar(&r.Priority, "priority", "", "high, normal or low")
	flags.StringVar(&r.OrderingKey, "ordering-key", "", "requests with one key run one after the other")
	flags.StringVar(&r.ConcurrencyKey, "concurrency-key", "", "of one key, as many run at once as the service has set")
	flags.StringSliceVar(&r.Tags, "tag", nil, "to find it in the listing by; several by commas, or again")
	flags.BoolVar(&r.Minimal, "minimal", false, "the outcome is wanted, the reply is not kept")
}

// read is the request that was described.
func (f *requestFlags) read(c *cobra.Command) (r client.Request, err error) {
	r = f.request
	for _, line := range f.headers {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return r, usage{fmt.Errorf("the header %q must be NAME: VALUE", line)}
		}
		if r.Header == nil {
			r.Header = map[string]string{}
		}
		r.Header[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	r.Body, err = readData(c, f.data)
	return r, err
}

func readData(c *cobra.Command, data string) ([]byte, error) {
	file, isFile := strings.CutPrefix(data, "@")
	switch {
	case !isFile:
		return []byte(data), nil
	case file == "-":
		return io.ReadAll(c.InOrStdin())
	}
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, usage{fmt.Errorf("read the body: %w", err)}
	}
	return body, nil
}
