package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/coatcheck/coatcheck/api"
)

// Pause has requests of a service accepted and given to no worker, until Resume.
// Those that run go on. It needs the scope admin.
func (c *Client) Pause(ctx context.Context, service string) (api.Service, error) {
	return c.control(ctx, service, "pause")
}

// Resume takes Pause back.
func (c *Client) Resume(ctx context.Context, service string) (api.Service, error) {
	return c.control(ctx, service, "resume")
}

func (c *Client) control(ctx context.Context, service, verb string) (s api.Service, err error) {
	path := "/v1/services/" + url.PathEscape(service) + "/" + verb
	err = c.call(ctx, http.MethodPost, path, nil, nil, func(response *http.Response) error {
		raw, err := readAll(response, maxDocument)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &s); err != nil || s.Name == "" {
			return errors.New("the answer is no service document: is this the address of a gateway?")
		}
		return nil
	})
	return s, err
}
