package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api/client"
)

// submit hands a request in.
func submit() *cobra.Command {
	var t target
	var data, contentType, key, callback string
	var timeout, delay, backoff time.Duration
	var priority, ordering, concurrency, cache string
	var attempts int
	var waits, follows, minimal bool
	var tags, events []string
	c := &cobra.Command{
		Use:   "submit SERVICE",
		Short: "Submit a request; prints its status, with --wait its outcome",
		Long:  "Submit a request and print its status, with --wait its outcome.\n\n" + exitCodes,
		Args:  one("SERVICE"),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if waits && follows {
				return usage{errors.New("--follow waits for the outcome already: leave --wait out")}
			}
			body, err := readData(c, data)
			if err != nil {
				return err
			}
			r := client.Request{
				ContentType: contentType, Body: body, IdempotencyKey: key, Timeout: timeout, CallbackURL: callback, CallbackEvents: events, Tags: tags,
				Delay: delay, Priority: priority, OrderingKey: ordering, ConcurrencyKey: concurrency,
				MaxAttempts: attempts, Backoff: backoff, CacheControl: cache, Minimal: minimal,
			}
			if follows {
				return t.follow(out(c), cl.Follow(c.Context(), args[0], r))
			}
			s, err := cl.Submit(c.Context(), args[0], r)
			if err != nil {
				return err
			}
			if !waits {
				return t.print(out(c), s)
			}
			fmt.Fprintln(os.Stderr, "waiting for", s.CorrelationID)
			if s, err = cl.Wait(c.Context(), s.CorrelationID); err != nil {
				return err
			}
			return t.conclude(out(c), s)
		},
	}
	t.flags(c)
	c.Flags().StringVarP(&data, "data", "d", "", "the body; @FILE reads a file, @- standard input")
	c.Flags().StringVar(&contentType, "content-type", "application/json", "content type of the body")
	c.Flags().StringVar(&key, "idempotency-key", "", "the same key and body give the same request")
	c.Flags().StringVar(&callback, "callback-url", "", "where to post the outcome")
	c.Flags().StringSliceVar(&events, "callback-events", nil, "what to post: succeeded, failed, timed_out, canceled, progress (default the four outcomes)")
	c.Flags().DurationVar(&timeout, "timeout", 0, "accepted to outcome; 0 leaves what the gateway has set")
	c.Flags().DurationVar(&delay, "delay", 0, "not before; the other clocks start when it is over")
	c.Flags().StringVar(&priority, "priority", "", "high, normal or low")
	c.Flags().StringVar(&ordering, "ordering-key", "", "requests with one key run one after the other")
	c.Flags().StringVar(&concurrency, "concurrency-key", "", "of one key, as many run at once as the service has set")
	c.Flags().DurationVar(&backoff, "backoff", 0, "before the second attempt, doubling; 0 leaves what the gateway has set")
	c.Flags().IntVar(&attempts, "max-attempts", 0, "attempts before it fails; 0 leaves what the gateway has set")
	c.Flags().StringSliceVar(&tags, "tag", nil, "to find it in the listing by; several by commas, or again")
	c.Flags().StringVar(&cache, "cache-control", "", "no-cache, no-store, max-age=SECONDS or only-if-cached")
	c.Flags().BoolVar(&waits, "wait", false, "wait for the outcome")
	c.Flags().BoolVar(&follows, "follow", false, "follow its events until the outcome, a line an event")
	c.Flags().BoolVar(&minimal, "minimal", false, "the outcome is wanted, the reply is not kept")
	return c
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
