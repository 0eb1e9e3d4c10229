package gateway_test

import (
	"github.com/coatcheck/coatcheck/internal/auth"
	"github.com/coatcheck/coatcheck/internal/config"
)

// withKeys gives two tenants a key each; the second one may not cancel.
func withKeys(c *config.Config) {
	c.Auth.Keys = auth.Keys{
		{Name: "a", Hash: auth.Hash("key-a"), Tenant: "a", Scopes: auth.Scopes},
		{Name: "b", Hash: auth.Hash("key-b"), Tenant: "b", Scopes: []auth.Scope{auth.Submit, auth.Read}},
	}
}
