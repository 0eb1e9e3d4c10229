package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

const (
	deadPage = 1000                   // dead letters that a gateway gives at once
	jobPause = 500 * time.Millisecond // between two looks at a job
)

// retry redrives one dead letter.
func retry() *cobra.Command {
	var t target
	var waits bool
	c := &cobra.Command{
		Use: "retry ID", Short: "Redrive a failed or timed-out request; prints the new one", Args: one("ID"),
		Long: "Redrive a failed or timed-out request: a new one is made of its body and options,\nand printed, with --wait its outcome. A repeat prints the same new one.\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			s, err := cl.Retry(c.Context(), args[0])
			if err != nil {
				return err
			}
			return t.accepted(c, cl, s, waits)
		},
	}
	t.flags(c)
	c.Flags().BoolVar(&waits, "wait", false, "wait for the outcome of the new one")
	return c
}

// dead is what one does with many dead letters.
func dead() *cobra.Command {
	return group("dead", "Dead letters: requests that failed or timed out", deadList(), deadRedrive(), deadJob(), deadStop(), deadPurge())
}

func filterFlags(c *cobra.Command, f *client.DeadFilter) {
	c.Flags().StringVar(&f.Service, "service", "", "only those of this service")
	c.Flags().StringVar(&f.Error, "error", "", "only those with this error code")
}

func deadList() *cobra.Command {
	var t target
	var f client.DeadFilter
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List dead letters, newest first", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			if limit < 0 {
				return usage{fmt.Errorf("limit %d is negative; 0 lists all", limit)}
			}
			all := []api.DeadLetter{}
			for cursor := ""; limit == 0 || len(all) < limit; {
				most := deadPage
				if limit > 0 {
					most = min(limit-len(all), deadPage)
				}
				page, err := cl.DeadLetters(c.Context(), f, cursor, most)
				if err != nil {
					return err
				}
				all, cursor = append(all, page.DeadLetters...), page.NextCursor
				if cursor == "" {
					break
				}
			}
			return printAll(&t, out(c), all, []string{"CORRELATION ID", "SERVICE", "STATUS", "FINISHED", "ERROR", "MESSAGE"}, func(d api.DeadLetter) []string {
				return []string{d.CorrelationID, d.Service, d.Status, d.FinishedAt.String(), d.Error.Code, d.Error.Message}
			})
		},
	}
	t.flags(c)
	filterFlags(c, &f)
	c.Flags().IntVar(&limit, "limit", 50, "most dead letters; 0 for all")
	return c
}

func deadRedrive() *cobra.Command {
	var t target
	var f client.DeadFilter
	var which api.RedriveRequest
	var all, wait bool
	c := &cobra.Command{
		Use: "redrive", Short: "Redrive all dead letters that match; prints the job", Args: cobra.NoArgs,
		Long: "Begin a job that redrives all dead letters that match, oldest first. It goes on\nwithout this command, until it is done or stopped.\n" + needsAdmin,
		RunE: func(c *cobra.Command, _ []string) error {
			which.Service, which.Error = f.Service, f.Error
			if which == (api.RedriveRequest{}) && !all {
				return usage{fmt.Errorf("name what to redrive by --service, --error, --status or --limit, or say --all")}
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			job, err := cl.RedriveAll(c.Context(), which)
			if err != nil {
				return err
			}
			for wait && job.FinishedAt.IsZero() {
				select {
				case <-c.Context().Done():
					return c.Context().Err()
				case <-time.After(jobPause):
				}
				if job, err = cl.Redrive(c.Context(), job.ID); err != nil {
					return err
				}
			}
			return t.printJob(out(c), job)
		},
	}
	t.flags(c)
	filterFlags(c, &f)
	c.Flags().StringVar(&which.Status, "status", "", "only those that are failed or timed_out")
	c.Flags().IntVar(&which.Limit, "limit", 0, "how many at most; 0 for all")
	c.Flags().BoolVar(&all, "all", false, "redrive all of the tenant's")
	c.Flags().BoolVar(&wait, "wait", false, "wait until it is done or stopped")
	return c
}

// jobCommand is one that does something with a job and prints it.
func jobCommand(use, short string, do func(*cobra.Command, *client.Client, string) (api.Redrive, error)) *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: use + " JOB", Short: short, Args: one("JOB"),
		Long: short + ".\n" + needsAdmin,
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			job, err := do(c, cl, args[0])
			if err != nil {
				return err
			}
			return t.printJob(out(c), job)
		},
	}
	t.flags(c)
	return c
}

func deadJob() *cobra.Command {
	return jobCommand("job", "How far a redrive is", func(c *cobra.Command, cl *client.Client, id string) (api.Redrive, error) {
		return cl.Redrive(c.Context(), id)
	})
}

func deadStop() *cobra.Command {
	return jobCommand("stop", "Stop a redrive; what it redrove stays redriven", func(c *cobra.Command, cl *client.Client, id string) (api.Redrive, error) {
		return cl.StopRedrive(c.Context(), id)
	})
}

func (t *target) printJob(w io.Writer, job api.Redrive) error {
	if t.output != "table" {
		return t.encode(w, job)
	}
	_, err := fmt.Fprintf(w, "job     %s\nstate   %s\ntotal   %d\ndone    %d\nfailed  %d\n", job.ID, job.State, job.Total, job.Done, job.Failed)
	return err
}

func deadPurge() *cobra.Command {
	var t target
	var f client.DeadFilter
	var all bool
	c := &cobra.Command{
		Use: "purge", Short: "Forget dead letters that match", Args: cobra.NoArgs,
		Long: "Forget dead letters that match.\n" + needsAdmin,
		RunE: func(c *cobra.Command, _ []string) error {
			if f == (client.DeadFilter{}) && !all {
				return usage{fmt.Errorf("name what to forget by --service or --error, or say --all")}
			}
			cl, err := t.client()
			if err != nil {
				return err
			}
			n := 0
			for {
				p, err := cl.Purge(c.Context(), f)
				n += p.Purged
				if err != nil {
					return fmt.Errorf("after %d were forgotten: %w", n, err)
				}
				if !p.Left {
					break
				}
			}
			if t.output != "table" {
				return t.encode(out(c), map[string]int{"purged": n})
			}
			_, err = fmt.Fprintf(out(c), "purged  %d\n", n)
			return err
		},
	}
	t.flags(c)
	filterFlags(c, &f)
	c.Flags().BoolVar(&all, "all", false, "forget all of the tenant's")
	return c
}

func (t *target) encode(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	if t.output == "json" {
		encoder.SetIndent("", "  ")
	}
	return encoder.Encode(v)
}
