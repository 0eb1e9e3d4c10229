package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/coatcheck/coatcheck/api"
)

// Replies reads a page of the progress and partial replies numbered above after; the
// last one of a request that has its outcome has the final reply, too.
func (c *Client) Replies(ctx context.Context, id string, after int) (p api.ReplyPage, err error) {
	err = c.json(ctx, http.MethodGet, fmt.Sprintf("%s?after=%d", requestPath(id, "/replies"), after), nil, nil, &p)
	return p, err
}

// SubmitBatch hands in up to 1,000 items, each of which may
// have all options of a submit. The same key and items give the same batch, so a
// try whose answer was lost submits nothing twice; "" is a random key. What became
// of each is in the answer: an item that was refused is no error.
func (c *Client) SubmitBatch(ctx context.Context, key string, items ...api.BatchItem) (api.BatchAnswer, error) {
	body, err := json.Marshal(items)
	if err != nil {
		return api.BatchAnswer{}, fmt.Errorf("write the batch: %w", err)
	}
	return c.SubmitBatchJSON(ctx, key, body)
}

// SubmitBatchJSON is SubmitBatch of a JSON array of items, or of JSON Lines.
func (c *Client) SubmitBatchJSON(ctx context.Context, key string, items []byte) (a api.BatchAnswer, err error) {
	contentType := "application/jsonl"
	if bytes.HasPrefix(bytes.TrimSpace(items), []byte("[")) {
		contentType = "application/json"
	}
	err = c.json(ctx, http.MethodPost, "/v1/batches", Request{IdempotencyKey: key, ContentType: contentType}.headers(), items, &a)
	return a, err
}

// Batch counts the outcomes of a batch.
func (c *Client) Batch(ctx context.Context, id string) (b api.Batch, err error) {
	err = c.json(ctx, http.MethodGet, "/v1/batches/"+url.PathEscape(id), nil, nil, &b)
	return b, err
}

// WaitBatch long-polls until nothing of the batch is open, or ctx ends.
func (c *Client) WaitBatch(ctx context.Context, id string) (b api.Batch, err error) {
	for !b.Complete && err == nil {
		err = c.json(ctx, http.MethodGet, "/v1/batches/"+url.PathEscape(id)+"?wait="+pollWait.String(), nil, nil, &b)
		if err == nil && !b.Complete {
			err = rest(ctx, leastPoll)
		}
	}
	return b, err
}

// CancelBatch cancels what is open of a batch.
func (c *Client) CancelBatch(ctx context.Context, id string) (b api.Batch, err error) {
	err = c.json(ctx, http.MethodPost, "/v1/batches/"+url.PathEscape(id)+"/cancel", nil, nil, &b)
	return b, err
}

// json calls and reads a JSON document.
func (c *Client) json(ctx context.Context, method, path string, h http.Header, body []byte, into any) error {
	return c.call(ctx, method, path, h, body, func(response *http.Response) error {
		raw, err := readAll(response, maxDocument)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return errors.New("the answer is no JSON document: is this the address of a gateway?")
		}
		return nil
	})
}
