package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api/client"
)

// scatter hands one request in for several services.
func scatter() *cobra.Command {
	var t target
	var data, contentType, key, callback string
	var timeout, stall time.Duration
	var least int
	var partial, waits bool
	var tags []string
	c := &cobra.Command{
		Use:   "scatter SERVICE SERVICE…",
		Short: "Submit one request to several services; --wait gathers their answers",
		Long:  "Submit one request to several services and print its status, with --wait its outcome,\nwhich has the answers of all of them.\n\n" + exitCodes,
		Args:  cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			body, err := readData(c, data)
			if err != nil {
				return err
			}
			s, err := cl.Scatter(c.Context(), args, client.Scatter{
				Request:    client.Request{ContentType: contentType, Body: body, IdempotencyKey: key, Timeout: timeout, CallbackURL: callback, Tags: tags},
				MinReplies: least, StallTimeout: stall, AcceptPartial: partial,
			})
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
	c.Flags().StringVar(&key, "idempotency-key", "", "the same key, services and body give the same request")
	c.Flags().StringVar(&callback, "callback-url", "", "where to post the outcome")
	c.Flags().DurationVar(&timeout, "timeout", 0, "accepted to outcome; 0 leaves what the gateway has set")
	c.Flags().IntVar(&least, "min-replies", 0, "how many must succeed; 0 for all")
	c.Flags().DurationVar(&stall, "stall-timeout", 0, "without an answer for so long it is over; 0 for never")
	c.Flags().BoolVar(&partial, "accept-partial", false, "when nothing more can come, one success will do")
	c.Flags().StringSliceVar(&tags, "tag", nil, "to find it in the listing by; several by commas, or again")
	c.Flags().BoolVar(&waits, "wait", false, "wait for the outcome")
	return c
}
