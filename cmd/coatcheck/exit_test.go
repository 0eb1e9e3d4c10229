package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"testing"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/internal/discovery"
)

// What may be better later has a code of its own, whichever way it comes.
func TestExitCodeTellsWhetherToTryAgain(t *testing.T) {
	for want, errs := range map[int][]error{
		exitFailed:    {errors.New("any"), client.ErrPending, verdict(api.Status{Status: api.Failed}), verdict(api.Status{Status: api.TimedOut})},
		exitUsage:     {usage{errors.New("any")}, client.ErrHeader, fmt.Errorf("more: %w", usage{client.ErrNoGateway})},
		exitNoGateway: {client.ErrNoGateway, discovery.ErrNone, &url.Error{Op: "Get", URL: "http://x", Err: io.EOF}},
	} {
		for _, err := range errs {
			if got := exitCode(fmt.Errorf("call: %w", err)); got != want {
				t.Errorf("%v: %d, want %d", err, got, want)
			}
		}
	}
	for _, kind := range api.Problems {
		want := exitFailed
		if kind.Retry {
			want = exitNoGateway
		}
		if got := exitCode(fmt.Errorf("call: %w", kind.New(""))); got != want {
			t.Errorf("%s: %d, want %d", kind.Slug, got, want)
		}
	}
	if err := verdict(api.Status{Status: api.Succeeded}); err != nil {
		t.Error(err)
	}
}
