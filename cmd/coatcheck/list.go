package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

const longestPage = 500 // that a gateway gives

// list prints requests, newest first.
func list() *cobra.Command {
	var t target
	var f client.Filter
	var since, until string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List requests, newest first; the active ones by default", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if limit < 0 {
				return usage{fmt.Errorf("limit %d is negative; 0 lists all", limit)}
			}
			if f.Since, err = instant("since", since); err != nil {
				return err
			}
			if f.Until, err = instant("until", until); err != nil {
				return err
			}
			f.Limit = longestPage
			if limit > 0 {
				f.Limit = min(limit, longestPage)
			}
			found := []api.Status{}
			for s, err := range cl.All(c.Context(), f) {
				if err != nil {
					return err
				}
				found = append(found, s)
				if len(found) == limit {
					break
				}
			}
			return printAll(&t, out(c), found, []string{"CORRELATION ID", "SERVICE", "STATUS", "ATTEMPT", "CREATED", "TAGS"}, func(s api.Status) []string {
				return []string{s.CorrelationID, s.Service, string(s.Status), fmt.Sprint(s.Attempt), s.CreatedAt.String(), strings.Join(s.Tags, ",")}
			})
		},
	}
	t.flags(c)
	c.Flags().StringVar(&f.Service, "service", "", "of this service")
	c.Flags().StringSliceVar(&f.Statuses, "status", nil, "scheduled, queued, running, succeeded, failed, timed_out, canceled, active or any")
	c.Flags().StringSliceVar(&f.Tags, "tag", nil, "with all these tags")
	c.Flags().StringVar(&since, "since", "", "accepted at that time or later: RFC 3339, or how long ago, such as 90m")
	c.Flags().StringVar(&until, "until", "", "accepted before that time")
	c.Flags().StringVar(&f.IDPrefix, "id-prefix", "", "whose correlation ID begins so")
	c.Flags().IntVar(&limit, "limit", 50, "most requests; 0 for all")
	return c
}

// instant reads a time, or how long ago it is.
func instant(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return time.Now().Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return at, usage{fmt.Errorf("%s %q is neither a time as 2026-11-23T21:45:02Z nor a duration as 90m", name, text)}
	}
	return at, nil
}

// printAll writes a list: a table with its head, one JSON array, or a line each.
func printAll[T any](t *target, w io.Writer, all []T, head []string, row func(T) []string) error {
	encoder := json.NewEncoder(w)
	switch t.output {
	case "json":
		encoder.SetIndent("", "  ")
		return encoder.Encode(all)
	case "jsonl":
		for _, one := range all {
			if err := encoder.Encode(one); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, strings.Join(head, "\t"))
	for _, one := range all {
		fmt.Fprintln(table, strings.Join(row(one), "\t"))
	}
	return table.Flush()
}
