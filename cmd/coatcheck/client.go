package main

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/discovery"
)

// target is which gateway the client commands call, and how they print.
type target struct {
	url, output string
}

func (t *target) flags(c *cobra.Command) {
	c.Flags().StringVar(&t.url, "url", "", "gateway (or COATCHECK_URL); default: a running dev")
	c.Flags().StringVarP(&t.output, "output", "o", "table", "table, json or jsonl")
}

// client calls the named gateway, or the dev that runs here. The API key comes
// from COATCHECK_API_KEY: a flag would show it to everybody on the machine.
func (t *target) client() (*client.Client, error) {
	url, err := t.gateway()
	if err != nil {
		return nil, err
	}
	return client.New(url, client.APIKey(os.Getenv(config.Prefix+"API_KEY"))), nil
}

// gateway is its URL.
func (t *target) gateway() (string, error) {
	if t.output != "table" && t.output != "json" && t.output != "jsonl" {
		return "", usage{fmt.Errorf("output %q is none of table, json, jsonl", t.output)}
	}
	url := t.url
	if url == "" {
		url = os.Getenv(config.Prefix + "URL")
	}
	if url == "" {
		found, err := discovery.Find()
		if err != nil {
			return "", err
		}
		url = found.URL
	}
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return "", usage{fmt.Errorf("gateway %q must begin with http:// or https://", url)}
	}
	return strings.TrimRight(url, "/"), nil
}

// print writes a status document to stdout.
func (t *target) print(w io.Writer, s api.Status) error {
	if t.output != "table" {
		encoder := json.NewEncoder(w)
		if t.output == "json" {
			encoder.SetIndent("", "  ")
		}
		return encoder.Encode(s)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(table, "%s\t%s\n", name, value)
		}
	}
	row("correlation_id", s.CorrelationID)
	row("service", s.Service)
	row("status", string(s.Status))
	row("reason", s.Reason)
	row("error", s.Error.Message)
	row("attempt", fmt.Sprint(s.Attempt))
	row("worker", s.Worker)
	row("priority", string(s.Priority))
	row("tags", strings.Join(s.Tags, ","))
	row("cache", string(s.Cache))
	row("retry_of", s.RetryOf)
	row("retried_as", s.RetriedAs)
	for _, at := range []struct {
		name string
		time api.Time
	}{{"created_at", s.CreatedAt}, {"scheduled_for", s.ScheduledFor}, {"started_at", s.StartedAt}, {"finished_at", s.FinishedAt}, {"deadline_at", s.DeadlineAt}} {
		if !at.time.IsZero() {
			row(at.name, at.time.String())
		}
	}
	if s.LiveWorkers != nil { // 0 says that nobody is there to answer
		row("live_workers", strconv.Itoa(*s.LiveWorkers))
	}
	for _, leg := range s.Scatter.Legs {
		row("  "+leg.Service, strings.TrimSpace(string(leg.Status)+"  "+leg.Error.Message))
	}
	switch {
	case s.Reply.Encoding == api.ReplyEncodingBase64 || s.Reply.Body == nil && s.Reply.Size > 0:
		row("reply", fmt.Sprintf("%d bytes of %s: coatcheck reply %s", s.Reply.Size, s.Reply.ContentType, s.CorrelationID))
	case s.Reply.Body != nil:
		row("reply", string(s.Reply.Body))
	}
	return table.Flush()
}

// status prints where a request stands.
func status() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "status ID", Short: "Where a request stands", Args: one("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			s, err := cl.Status(c.Context(), args[0])
			if err != nil {
				return err
			}
			return t.print(out(c), s)
		},
	}
	t.flags(c)
	return c
}

// wait waits for the outcome; it fails where that is no success.
func wait() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "wait ID", Short: "Wait for the outcome of a request", Args: one("ID"),
		Long: "Wait for the outcome of a request and print its status.\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			s, err := cl.Wait(c.Context(), args[0])
			if err != nil {
				return err
			}
			return t.conclude(out(c), s)
		},
	}
	t.flags(c)
	return c
}

// accepted prints a request that was just accepted, with waits its outcome.
func (t *target) accepted(c *cobra.Command, cl *client.Client, s api.Status, waits bool) error {
	if !waits {
		return t.print(out(c), s)
	}
	fmt.Fprintln(os.Stderr, "waiting for", s.CorrelationID)
	s, err := cl.Wait(c.Context(), s.CorrelationID)
	if err != nil {
		return err
	}
	return t.conclude(out(c), s)
}

// conclude prints an outcome, as an error where it is no success.
func (t *target) conclude(w io.Writer, s api.Status) error {
	if err := t.print(w, s); err != nil {
		return err
	}
	return verdict(s)
}

// verdict makes an outcome that is no success an error.
func verdict(s api.Status) error {
	if s.Status == api.Succeeded {
		return nil
	}
	ended := map[api.StatusStatus]string{api.Failed: "failed", api.TimedOut: "timed out", api.Canceled: "was canceled"}[s.Status]
	return fmt.Errorf("the request %s: %s", ended, s.Error.Message)
}

// reply writes the bytes of the reply to stdout, as they are.
func reply() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "reply ID", Short: "Write the raw reply of a request to stdout", Args: one("ID"),
		Long: "Write the raw reply of a request to stdout, byte for byte.\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			r, err := cl.Reply(c.Context(), args[0])
			if err != nil {
				return err
			}
			if _, err := out(c).Write(r.Body); err != nil {
				return fmt.Errorf("write the reply: %w", err)
			}
			if r.StatusCode >= http.StatusBadRequest {
				return fmt.Errorf("the worker answered with the status code %d", r.StatusCode)
			}
			return nil
		},
	}
	c.Flags().StringVar(&t.url, "url", "", "gateway (or COATCHECK_URL); default: a running dev")
	t.output = "json" // there is nothing to choose
	return c
}

// cancel cancels a request.
func cancel() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "cancel ID", Short: "Cancel a request", Args: one("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			s, err := cl.Cancel(c.Context(), args[0])
			if err != nil {
				return err
			}
			return t.print(out(c), s)
		},
	}
	t.flags(c)
	return c
}

// tail follows a request, a line an event.
func tail() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "tail ID", Short: "Follow the events of a request until its outcome", Args: one("ID"),
		Long: "Follow the events of a request until its outcome, a line an event.\n\n" + exitCodes,
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			return t.follow(out(c), cl.Events(c.Context(), args[0]))
		},
	}
	t.flags(c)
	return c
}

// follow prints events until the outcome; one that is no success is an error.
func (t *target) follow(w io.Writer, events iter.Seq2[client.Event, error]) error {
	for e, err := range events {
		if err != nil {
			return err
		}
		if err := t.event(w, e); err != nil {
			return err
		}
		if e.Kind == "outcome" {
			return verdict(e.Status)
		}
	}
	return nil
}

func (t *target) event(w io.Writer, e client.Event) error {
	if t.output != "table" {
		var document any = e.Status
		switch e.Kind {
		case "progress", "partial":
			document = e.Event
		case "reset":
			document = e.Reset
		}
		return json.NewEncoder(w).Encode(map[string]any{"event": e.Kind, "data": document})
	}
	var err error
	switch e.Kind {
	case "progress", "partial":
		_, err = fmt.Fprintf(w, "%s  %-8s %d  %s%s\n", clock(e.Event.At), e.Kind, e.Event.Number, whose(e.Event), e.Event.Body)
	case "status":
		_, err = fmt.Fprintf(w, "%s  %-8s    %s, attempt %d\n", clock(since(e.Status)), e.Kind, e.Status.Status, e.Status.Attempt)
	case "reset":
		_, err = fmt.Fprintf(w, "events before %d are no longer kept\n", e.Reset.First)
	case "outcome":
		_, err = fmt.Fprintf(w, "%s  %-8s %d  %s %s\n", clock(e.Status.FinishedAt), e.Kind, e.Status.Events, e.Status.Status, e.Status.Reply.Body)
	}
	return err
}

// whose is, of a scatter, which service an event is of, and how that ended.
func whose(e api.Event) (text string) {
	for _, word := range []string{e.Service, string(e.Status), e.Error.Message} {
		if word != "" {
			text += word + " "
		}
	}
	return text
}

// since is when a request became what it is.
func since(s api.Status) api.Time {
	for _, t := range []api.Time{s.FinishedAt, s.StartedAt, s.QueuedAt} {
		if !t.IsZero() {
			return t
		}
	}
	return s.CreatedAt
}

func clock(t api.Time) string { return time.Time(t).Local().Format("15:04:05.000") }
