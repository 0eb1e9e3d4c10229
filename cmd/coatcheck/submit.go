package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// submit hands a request in.
func submit() *cobra.Command {
	var t target
	var f requestFlags
	var waits, follows bool
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
			r, err := f.read(c)
			if err != nil {
				return err
			}
			if follows {
				return t.follow(out(c), cl.Follow(c.Context(), args[0], r))
			}
			s, err := cl.Submit(c.Context(), args[0], r)
			if err != nil {
				return err
			}
			return t.accepted(c, cl, s, waits)
		},
	}
	t.flags(c)
	f.flags(c)
	c.Flags().StringVar(&f.request.CacheControl, "cache-control", "", "no-cache, no-store, max-age=SECONDS or only-if-cached")
	c.Flags().BoolVar(&waits, "wait", false, "wait for the outcome")
	c.Flags().BoolVar(&follows, "follow", false, "follow its events until the outcome, a line an event")
	return c
}
