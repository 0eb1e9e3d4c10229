package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api"
)

// replies lists what a worker has said so far.
func replies() *cobra.Command {
	var t target
	var after int
	c := &cobra.Command{
		Use: "replies ID", Short: "List the replies of a request so far, the final one last", Args: one("ID"),
		Long: "List the progress and partial replies of a request that are kept, and the final\none where there is one, a line a reply.\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			for more := true; more; {
				page, err := cl.Replies(c.Context(), args[0], after)
				if err != nil {
					return err
				}
				if err := t.replies(out(c), page); err != nil {
					return err
				}
				after, more = page.After, page.More
			}
			return nil
		},
	}
	t.flags(c)
	c.Flags().IntVar(&after, "after", 0, "number of the last reply that is known")
	return c
}

// replies prints a page.
func (t *target) replies(w io.Writer, page api.ReplyPage) error {
	if t.output != "table" {
		return json.NewEncoder(w).Encode(page)
	}
	if page.Reset.First > 0 {
		if _, err := fmt.Fprintf(w, "replies before %d are no longer kept\n", page.Reset.First); err != nil {
			return err
		}
	}
	for _, e := range page.Replies {
		if _, err := fmt.Fprintf(w, "%s  %-8s %d  %s%s %s\n", clock(e.At), e.Type, e.Number, whose(e), kind(e.ContentType, string(e.Encoding)), e.Body); err != nil {
			return err
		}
	}
	switch f := page.Final; {
	case page.More || f.Size == 0 && f.StatusCode == 0:
		return nil
	case f.Body == nil && f.Size > 0:
		_, err := fmt.Fprintf(w, "final  %d bytes of %s: coatcheck reply %s\n", f.Size, f.ContentType, page.CorrelationID)
		return err
	default:
		_, err := fmt.Fprintf(w, "final  %s %s\n", kind(f.ContentType, string(f.Encoding)), f.Body)
		return err
	}
}

// kind is the content type, and base64 where the body is written so.
func kind(contentType, encoding string) string {
	if encoding == "base64" {
		return contentType + ";base64"
	}
	return contentType
}
