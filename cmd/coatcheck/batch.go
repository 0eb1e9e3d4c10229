package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
)

// batch hands many requests in by one call.
func batch() *cobra.Command {
	var t target
	var key string
	var waits bool
	c := &cobra.Command{
		Use: "batch DATA", Short: "Submit many requests: a JSON array, or JSON Lines; @FILE reads a file, @- standard input", Args: one("DATA"),
		Long: "Submit many requests and print what became of each, with --wait also how they ended.\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			items, err := readData(c, args[0])
			if err != nil {
				return err
			}
			a, err := cl.SubmitBatchJSON(c.Context(), key, items)
			if err != nil {
				return err
			}
			if err := json.NewEncoder(out(c)).Encode(a); err != nil {
				return err
			}
			if waits {
				b, err := cl.WaitBatch(c.Context(), a.BatchID)
				if err != nil {
					return err
				}
				if err := json.NewEncoder(out(c)).Encode(b); err != nil {
					return err
				}
				if b.Succeeded < b.Accepted {
					return fmt.Errorf("%d of %d requests succeeded", b.Succeeded, b.Accepted)
				}
			}
			if a.Refused > 0 {
				return fmt.Errorf("%d of %d items were refused", a.Refused, len(a.Items))
			}
			return nil
		},
	}
	t.output = "json" // there is nothing to choose
	c.Flags().StringVar(&t.url, "url", "", "gateway (or COATCHECK_URL); default: a running dev")
	c.Flags().StringVar(&key, "idempotency-key", "", "the same key and items give the same batch")
	c.Flags().BoolVar(&waits, "wait", false, "wait until all have their outcome")
	return c
}
