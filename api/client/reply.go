package client

import (
	"context"
	"errors"
	"net/http"

	"github.com/coatcheck/coatcheck/api"
)

// Reply is the worker's answer: its status code, content type and bytes.
type Reply struct {
	StatusCode  int
	ContentType string
	Body        []byte
}

var (
	// ErrPending is returned by Reply while there is no outcome.
	ErrPending = errors.New("the request has no outcome yet")
	// ErrTooLarge is returned for an answer above MaxReply, or a document above
	// what any gateway sends.
	ErrTooLarge = errors.New("the answer is larger than this client takes")
)

// Reply reads the raw reply. The worker's own status code may be one of an
// error; what the gateway says instead of a reply is an api.Problem.
func (c *Client) Reply(ctx context.Context, id string) (Reply, error) {
	var reply Reply
	err := c.call(ctx, http.MethodGet, requestPath(id, "/reply"), nil, nil, func(response *http.Response) error {
		if response.Header.Get(api.HeaderOutcome) == "" {
			return ErrPending
		}
		body, err := readAll(response, c.maxReply)
		reply = Reply{response.StatusCode, response.Header.Get("Content-Type"), body}
		return err
	})
	if err != nil {
		return Reply{}, err
	}
	return reply, nil
}
