package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

// Scatter is a request to several services. Its Body goes to all that Bodies does
// not name.
type Scatter struct {
	Request
	Bodies map[string][]byte // by service, each one of those that it goes to; nil for one body to all

	MinReplies    int           // how many must succeed; 0 for all
	StallTimeout  time.Duration // without an answer for so long it is over; 0 for never
	AcceptPartial bool          // when time is up, one success will do
}

// Scatter hands in one request to 2 to 100 services. Its status has one correlation
// ID, and the reply of its outcome is an api.GatheredReplies. Errors are as of
// Submit.
func (c *Client) Scatter(ctx context.Context, services []string, s Scatter) (api.Status, error) {
	h := s.headers()
	path, body := "/v1/scatter", s.Body
	if s.Bodies == nil {
		q := url.Values{"services": {strings.Join(services, ",")}}
		if s.MinReplies != 0 {
			q.Set("min_replies", strconv.Itoa(s.MinReplies))
		}
		if s.StallTimeout != 0 {
			q.Set("stall_timeout", s.StallTimeout.String())
		}
		if s.AcceptPartial {
			q.Set("accept_partial", "true")
		}
		path += "?" + q.Encode()
	} else {
		for service := range s.Bodies {
			if !slices.Contains(services, service) {
				return api.Status{}, fmt.Errorf("there is a body for %q, which is none of the services: nothing was sent", service)
			}
		}
		form, err := json.Marshal(s.form(services))
		if err != nil {
			return api.Status{}, fmt.Errorf("write the scatter: %w", err)
		}
		h.Set("Content-Type", "application/json")
		body = form
	}
	status, _, err := c.document(ctx, http.MethodPost, path, h, body)
	return status, err
}

// form is the scatter as a document, with each body as its bytes.
func (s Scatter) form(services []string) map[string]any {
	legs := make([]map[string]any, len(services))
	for i, service := range services {
		body, ok := s.Bodies[service]
		if !ok {
			body = s.Body
		}
		if body == nil {
			body = []byte{} // an empty one: nil would be written as null
		}
		legs[i] = map[string]any{"service": service, "encoding": "base64", "body": body}
		if s.ContentType != "" {
			legs[i]["content_type"] = s.ContentType
		}
	}
	form := map[string]any{"services": legs, "accept_partial": s.AcceptPartial}
	if s.MinReplies != 0 {
		form["min_replies"] = s.MinReplies
	}
	if s.StallTimeout != 0 {
		form["stall_timeout"] = s.StallTimeout.String()
	}
	return form
}
