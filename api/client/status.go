package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

const (
	pollWait  = 30 * time.Second       // of one long-poll
	leastPoll = 200 * time.Millisecond // between two polls of which the first did not rest
)

// Status reads where a request stands.
func (c *Client) Status(ctx context.Context, id string) (api.Status, error) {
	s, _, err := c.document(ctx, http.MethodGet, requestPath(id, ""), nil, nil)
	return s, err
}

// Wait long-polls until the request has its outcome, whichever that is, or ctx
// ends. With an error it returns the latest status that it saw.
func (c *Client) Wait(ctx context.Context, id string) (api.Status, error) {
	path := requestPath(id, "") + "?wait=" + pollWait.String()
	var last api.Status
	for {
		asked := time.Now()
		s, after, err := c.document(ctx, http.MethodGet, path, nil, nil)
		if err != nil {
			return last, err
		}
		if Terminal(s) {
			return s, nil
		}
		last = s
		// A poll that rested is asked again at once. One that came back early, from
		// a gateway that shuts down, must not become a stream of calls.
		if err := rest(ctx, max(after, leastPoll)-time.Since(asked)); err != nil {
			return last, err
		}
	}
}

// Terminal tells whether a request has its outcome.
func Terminal(s api.Status) bool { return !s.FinishedAt.IsZero() }

// Cancel cancels a request. A problem already-terminal says that it had its
// outcome before.
func (c *Client) Cancel(ctx context.Context, id string) (api.Status, error) {
	s, _, err := c.document(ctx, http.MethodPost, requestPath(id, "/cancel"), nil, nil)
	return s, err
}

// Delete forgets a request now.
func (c *Client) Delete(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, requestPath(id, ""), nil, nil, func(*http.Response) error { return nil })
}

func requestPath(id, rest string) string { return "/v1/requests/" + url.PathEscape(id) + rest }
