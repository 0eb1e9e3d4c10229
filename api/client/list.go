package client

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

// Filter is what List and All look for. Zero values leave a limit out.
type Filter struct {
	Service      string
	Statuses     []string // of a status document, or active or any; none: the active ones
	Tags         []string // all of them
	Since, Until time.Time
	IDPrefix     string
	Limit        int    // most requests of a page, at most 500; 0 for 50
	Cursor       string // next_cursor of the page before
}

// List reads a page of the listing, newest first. A page may be short, even
// empty, and have a NextCursor all the same; the end is where there is none.
func (c *Client) List(ctx context.Context, f Filter) (page api.RequestList, err error) {
	err = c.read(ctx, http.MethodGet, "/v1/requests"+f.query(), &page, func() bool { return page.Requests != nil })
	return page, err
}

// All goes through the pages of a listing. It ends after the first error.
func (c *Client) All(ctx context.Context, f Filter) iter.Seq2[api.Status, error] {
	return func(yield func(api.Status, error) bool) {
		for {
			page, err := c.List(ctx, f)
			if err != nil {
				yield(api.Status{}, err)
				return
			}
			for _, s := range page.Requests {
				if !yield(s, nil) {
					return
				}
			}
			if f.Cursor = page.NextCursor; f.Cursor == "" {
				return
			}
		}
	}
}

func (f Filter) query() string {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("service", f.Service)
	set("id_prefix", f.IDPrefix)
	set("cursor", f.Cursor)
	if len(f.Statuses) > 0 {
		q["status"] = f.Statuses
	}
	if len(f.Tags) > 0 {
		q["tag"] = f.Tags
	}
	for name, at := range map[string]time.Time{"since": f.Since, "until": f.Until} {
		if !at.IsZero() {
			q.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	if f.Limit != 0 { // a wrong one is the gateway's to refuse
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// read calls and reads a document that is no status; whole tells whether it is
// one that only a gateway writes.
func (c *Client) read(ctx context.Context, method, path string, into any, whole func() bool) error {
	return c.call(ctx, method, path, nil, nil, func(response *http.Response) error {
		raw, err := readAll(response, maxDocument)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, into); err != nil || !whole() {
			return errors.New("the answer is not what a gateway writes: is this the address of a gateway?")
		}
		return nil
	})
}
