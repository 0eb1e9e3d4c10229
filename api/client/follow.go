package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
)

// Follow hands a request in and follows it by the same call, to its outcome. It
// resumes by itself as Events does; a call that broke before it said which request
// it made is made again with the same idempotency key, so nothing runs twice. Who
// stops early cancels nothing.
func (c *Client) Follow(ctx context.Context, service string, r Request) iter.Seq2[Event, error] {
	return c.follow(ctx, "a request to "+service, following{
		client: c, method: http.MethodPost, path: "/v1/services/" + url.PathEscape(service) + "/requests",
		header: r.headers(), body: r.Body,
	})
}
