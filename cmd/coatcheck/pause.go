package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

// pause has a gateway take requests of a service and give none to workers.
func pause() *cobra.Command {
	return control("pause", "Take requests of a service, and give none to workers", (*client.Client).Pause)
}

// resume takes a pause back.
func resume() *cobra.Command {
	return control("resume", "Give the requests of a paused service to workers again", (*client.Client).Resume)
}

func control(verb, short string, do func(*client.Client, context.Context, string) (api.Service, error)) *cobra.Command {
	t := target{output: "json"}
	c := &cobra.Command{
		Use: verb + " SERVICE", Short: short, Args: one("SERVICE"),
		Long: short + ".\n" + needsAdmin,
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := t.client()
			if err != nil {
				return err
			}
			s, err := do(cl, c.Context(), args[0])
			if err != nil {
				return err
			}
			state := "is given to workers"
			if !s.PausedAt.IsZero() {
				state = "is paused since " + s.PausedAt.String()
			}
			_, err = fmt.Fprintf(out(c), "%s %s; %d wait, %d run\n", s.Name, state, s.Depth, s.Running)
			return err
		},
	}
	c.Flags().StringVar(&t.url, "url", "", "gateway (or COATCHECK_URL); default: a running dev")
	return c
}
