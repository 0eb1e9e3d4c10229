package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api/client"
)

// scatter hands one request in for several services.
func scatter() *cobra.Command {
	var t target
	var f requestFlags
	var stall time.Duration
	var least int
	var partial, waits bool
	c := &cobra.Command{
		Use:   "scatter SERVICE SERVICE…",
		Short: "Submit one request to several services; --wait gathers their answers",
		Long:  "Submit one request to several services and print its status, with --wait its outcome,\nwhich has the answers of all of them.\n\n" + exitCodes,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return fmt.Errorf("want two services or more, and got %d", len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			r, err := f.read(c)
			if err != nil {
				return err
			}
			s, err := cl.Scatter(c.Context(), args, client.Scatter{
				Request:    r,
				MinReplies: least, StallTimeout: stall, AcceptPartial: partial,
			})
			if err != nil {
				return err
			}
			return t.accepted(c, cl, s, waits)
		},
	}
	t.flags(c)
	f.flags(c)
	c.Flags().IntVar(&least, "min-replies", 0, "how many must succeed; 0 for all")
	c.Flags().DurationVar(&stall, "stall-timeout", 0, "without an answer for so long it is over; 0 for never")
	c.Flags().BoolVar(&partial, "accept-partial", false, "when nothing more can come, one success will do")
	c.Flags().BoolVar(&waits, "wait", false, "wait for the outcome")
	return c
}
