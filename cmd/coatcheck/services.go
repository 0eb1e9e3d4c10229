package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api"
)

// services prints the known services.
func services() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "services", Short: "The services, their queues and how many workers they have", Args: cobra.NoArgs,
		Long: "The services, their queues and how many workers they have. DEPTH counts what no\nworker has yet, also what waits for its delay, its key or the end of a pause.",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			all, err := cl.Services(c.Context())
			if err != nil {
				return err
			}
			return printAll(&t, out(c), all, []string{"SERVICE", "DEPTH", "RUNNING", "OLDEST", "STARTED/S", "FAILED/S", "RETRIED", "WORKERS", "SLOTS", "PAUSED"}, func(s api.Service) []string {
				oldest := time.Duration(float64(s.OldestAgeSeconds) * float64(time.Second)).Round(100 * time.Millisecond)
				paused := "-"
				if !s.PausedAt.IsZero() {
					paused = s.PausedAt.String()
				}
				return []string{
					s.Name, fmt.Sprint(s.Depth), fmt.Sprint(s.Running), oldest.String(), rate(s.StartedPerSecond), rate(s.FailedPerSecond),
					fmt.Sprint(s.Attempts.Retried), fmt.Sprint(s.LiveWorkers), fmt.Sprint(s.Slots), paused,
				}
			})
		},
	}
	t.flags(c)
	return c
}

// rate is one where something is known.
func rate(perSecond float32) string {
	if perSecond == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", perSecond)
}

// workers prints the live workers.
func workers() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "workers", Short: "The live workers, and what they hold", Args: cobra.NoArgs,
		Long: "The live workers, and what they hold: BUSY is as seen at most a second ago, SEEN when\na worker announced itself last.",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			all, err := cl.Workers(c.Context())
			if err != nil {
				return err
			}
			return t.workers(c, all)
		},
	}
	t.flags(c)
	c.AddCommand(workersDrain())
	return c
}

func workersDrain() *cobra.Command {
	var t target
	c := &cobra.Command{
		Use: "drain NAME", Short: "Tell a worker to finish what it has and claim no more", Args: one("NAME"),
		Long: "Tell a worker to finish what it has and claim no more until it is started again.\n" + needsAdmin,
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			w, err := cl.Drain(c.Context(), args[0])
			if err != nil {
				return err
			}
			if !w.ObeysDrain {
				fmt.Fprintf(os.Stderr, "%s did not say that it obeys a drain: it may go on, unless it looks into cc:draining by itself\n", w.Name)
			}
			return t.workers(c, []api.Worker{w})
		},
	}
	t.flags(c)
	return c
}

func (t *target) workers(c *cobra.Command, all []api.Worker) error {
	return printAll(t, out(c), all, []string{"WORKER", "VERSION", "STATE", "BUSY", "SLOTS", "SEEN", "SERVICES"}, func(w api.Worker) []string {
		seen, slots := "-", "-"
		if !w.SeenAt.IsZero() {
			seen = w.SeenAt.String()
		}
		if w.Announced {
			slots = fmt.Sprint(w.Slots)
		}
		version := w.Version
		if version == "" {
			version = "-"
		}
		return []string{w.Name, version, string(w.State), fmt.Sprint(w.Busy), slots, seen, strings.Join(w.Services, ",")}
	})
}
