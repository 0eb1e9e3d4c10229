package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/coatcheck/coatcheck/api"
)

// Services are the known services by name, with their queues and workers.
func (c *Client) Services(ctx context.Context) ([]api.Service, error) {
	var list api.ServiceList
	err := c.read(ctx, http.MethodGet, "/v1/services", &list, func() bool { return list.Services != nil })
	return list.Services, err
}

// Service is one of them, with its description.
func (c *Client) Service(ctx context.Context, name string) (s api.Service, err error) {
	err = c.read(ctx, http.MethodGet, "/v1/services/"+url.PathEscape(name), &s, func() bool { return s.Name != "" })
	return s, err
}

// Workers are the live workers by name.
func (c *Client) Workers(ctx context.Context) ([]api.Worker, error) {
	var list api.WorkerList
	err := c.read(ctx, http.MethodGet, "/v1/workers", &list, func() bool { return list.Workers != nil })
	return list.Workers, err
}

// Drain tells a worker to finish what it has and claim no more until it is
// started again. ObeysDrain of the answer says whether it is one that does.
func (c *Client) Drain(ctx context.Context, worker string) (w api.Worker, err error) {
	err = c.read(ctx, http.MethodPost, "/v1/workers/"+url.PathEscape(worker)+"/drain", &w, func() bool { return w.Name != "" })
	return w, err
}
