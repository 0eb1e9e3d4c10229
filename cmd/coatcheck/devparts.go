package main

import (
	"net/http"

	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/inbox"
	"github.com/coatcheck/coatcheck/web"
)

// extras are what only dev has.
type extras struct {
	page, inbox http.Handler
}

func devParts(c config.Config) extras {
	return extras{page: web.Handler(), inbox: inbox.New(c.Callbacks.Secret)}
}
