package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"
)

// MaxEvent is the largest body, in bytes, of a progress or partial reply.
const MaxEvent = 256 << 10

// Handler answers one request. Its context ends when the reply is no longer
// wanted; context.Cause says why. Handlers run concurrently.
//
// Beside an error that ends the request, a Reply with a body is what the client
// finds as the reply of the failed request.
type Handler func(ctx context.Context, r *Request) (Reply, error)

// Request is one attempt at a request.
type Request struct {
	ID          string // correlation ID, the same in every attempt
	Attempt     int    // 1 for the first
	Service     string
	Deadline    time.Time         // of the whole request, by this machine's clock; the context ends then
	ContentType string            // as the client sent it, "" for none
	Headers     map[string]string // forwarded from the client, lower-case names; nil for none
	Traceparent string            // W3C Trace Context, "" for none
	Body        []byte

	job *job // nil in a Request that a test made
}

// Reply is the final answer: opaque bytes.
type Reply struct {
	ContentType string // "" for none
	Body        []byte
	Headers     map[string]string // of the client's GET …/reply, lower-case names, together up to 8 KiB as JSON; nil for none
	StatusCode  int               // 200 to 599, of the client's GET …/reply; 0 for 200, or 500 with an error

	// CacheTTL is for how long the reply, where it is no error, answers requests with
	// the same content at once: 0 leaves it to the service, below 0 means not at all.
	CacheTTL time.Duration
}

// Progress tells everybody who watches how far the request is. v is encoded as
// JSON; a []byte is sent as it is, as what it turns out to be: JSON, text in
// UTF-8, or bytes. Returns once Redis has it, or with an error when ctx ends
// before, when the request has been answered, or above MaxEvent.
//
// On a Request that no worker made (in a handler's unit test), it only checks v.
func (r *Request) Progress(ctx context.Context, v any) error {
	contentType := "application/json"
	body, raw := v.([]byte)
	if !raw {
		var err error
		if body, err = json.Marshal(v); err != nil {
			return fmt.Errorf("encode progress: %w", err)
		}
	} else if !utf8.Valid(body) { // before JSON, whose check lets broken UTF-8 pass
		contentType = "application/octet-stream"
	} else if !json.Valid(body) {
		contentType = "text/plain; charset=utf-8"
	}
	return r.event(ctx, "progress", contentType, body)
}

// Partial sends a part of the reply ahead, in order with all other events of
// the request. Errors as of Progress.
func (r *Request) Partial(ctx context.Context, contentType string, body []byte) error {
	return r.event(ctx, "partial", contentType, body)
}

func (r *Request) event(ctx context.Context, kind, contentType string, body []byte) error {
	if len(body) > MaxEvent {
		return fmt.Errorf("send %s: %d bytes are more than the %d that an event may have", kind, len(body), MaxEvent)
	}
	if r.job == nil {
		return ctx.Err()
	}
	return r.job.event(ctx, kind, contentType, body)
}
