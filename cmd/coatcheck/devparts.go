package main

import (
	"net/http"

	"github.com/coatcheck/coatcheck/internal/config"
)

// extras are what only dev has.
type extras struct {
	page, inbox http.Handler
}

func devParts(config.Config) (extras, error) { return extras{}, nil }
