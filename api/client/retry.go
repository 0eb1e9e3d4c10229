package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/coatcheck/coatcheck/api"
)

// Retry redrives a failed or timed-out request, and returns the new one. A repeat
// returns the same new one. A problem not-dead says that it did neither fail nor
// time out, gone that its body or what was made of it is forgotten.
func (c *Client) Retry(ctx context.Context, id string) (api.Status, error) {
	s, _, err := c.document(ctx, http.MethodPost, requestPath(id, "/retry"), nil, nil)
	return s, err
}

// DeadFilter chooses dead letters; the zero value means all of the tenant's.
type DeadFilter struct {
	Service string
	Error   string // its code
}

func (f DeadFilter) query() url.Values {
	q := url.Values{}
	if f.Service != "" {
		q.Set("service", f.Service)
	}
	if f.Error != "" {
		q.Set("error", f.Error)
	}
	return q
}

// DeadLetters reads a page of dead letters, newest first. cursor is the NextCursor of the
// page before, "" for the first; limit is how many at most, 0 for the gateway's own.
func (c *Client) DeadLetters(ctx context.Context, f DeadFilter, cursor string, limit int) (page api.DeadLetterList, err error) {
	q := f.query()
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	err = c.json(ctx, http.MethodGet, withQuery("/v1/dead-letters", q), nil, nil, &page)
	return page, err
}

// Purge forgets the dead letters that match, up to 10000; call it again while Left.
func (c *Client) Purge(ctx context.Context, f DeadFilter) (p api.Purged, err error) {
	err = c.json(ctx, http.MethodDelete, withQuery("/v1/dead-letters", f.query()), nil, nil, &p)
	return p, err
}

// RedriveAll begins a job that redrives all dead letters that match.
func (c *Client) RedriveAll(ctx context.Context, which api.RedriveRequest) (job api.Redrive, err error) {
	body, err := json.Marshal(which)
	if err != nil {
		return job, err
	}
	err = c.json(ctx, http.MethodPost, "/v1/redrives", http.Header{"Content-Type": {"application/json"}}, body, &job)
	return job, err
}

// Redrive tells how far a job is.
func (c *Client) Redrive(ctx context.Context, id string) (job api.Redrive, err error) {
	err = c.json(ctx, http.MethodGet, "/v1/redrives/"+url.PathEscape(id), nil, nil, &job)
	return job, err
}

// StopRedrive stops a job. A problem already-terminal says that it was done before.
func (c *Client) StopRedrive(ctx context.Context, id string) (job api.Redrive, err error) {
	err = c.json(ctx, http.MethodPost, "/v1/redrives/"+url.PathEscape(id)+"/cancel", nil, nil, &job)
	return job, err
}

func withQuery(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}
