package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/internal/auth"
)

// keys makes API keys.
func keys() *cobra.Command {
	var tenant, name string
	var scopes []string
	create := &cobra.Command{
		Use:   "create",
		Short: "Make an API key: it is shown once, the configuration keeps its hash",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, s := range scopes {
				if !slices.Contains(auth.Scopes, auth.Scope(s)) {
					return usage{fmt.Errorf("scope %q is none of submit, read, cancel, work, admin", s)}
				}
			}
			if tenant == "" || strings.ContainsAny(tenant, " \t\r\n") {
				return usage{fmt.Errorf("--tenant %q must be a word", tenant)}
			}
			if name == "" {
				name = tenant
			}
			key := auth.NewKey()
			_, err := fmt.Fprintf(out(c), "%s\n\n# Keep the key; it is not shown again. For the configuration:\nauth:\n  keys:\n    - {name: %q, hash: %q, tenant: %q, scopes: [%s]}\n",
				key, name, auth.Hash(key), tenant, strings.Join(scopes, ", "))
			return err
		},
	}
	create.Flags().StringVar(&tenant, "tenant", auth.DefaultTenant, "who owns what is submitted with it")
	create.Flags().StringVar(&name, "name", "", "for the operator; default: the tenant")
	create.Flags().StringSliceVar(&scopes, "scopes", []string{"submit", "read", "cancel"}, "what it may do: submit, read, cancel, work (for workers: they see the requests of all tenants), admin")
	return group("keys", "API keys", create)
}
