package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
)

const (
	readSize  = 32 << 10
	quietTime = 50 * time.Millisecond // after which what came so far is a piece of its own
)

// piece is what one read of a body brought.
type piece struct {
	data []byte
	err  error
}

// read gathers the body, and passes on what the backend sends piece by piece: an
// event of text/event-stream, a line of JSON Lines, and of anything else without
// a known length what came before a pause.
func (u *Upstream) read(ctx context.Context, r *worker.Request, response *http.Response) ([]byte, error) {
	if response.ContentLength > int64(u.MaxReply) {
		return nil, tooLarge(u.MaxReply)
	}
	contentType := response.Header.Get("Content-Type")
	split := splitter(contentType)
	if response.ContentLength >= 0 && split == nil {
		return u.whole(ctx, response)
	}
	pieces := make(chan piece) // the goroutine sends, this function receives; closed by the goroutine
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		defer close(pieces)
		for {
			buffer := make([]byte, readSize)
			n, err := response.Body.Read(buffer)
			select {
			case pieces <- piece{buffer[:n], err}:
			case <-stop:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	var body []byte
	sent := 0 // bytes of body that were passed on
	partial := func(to int) error {
		for sent < to {
			end := min(to, sent+worker.MaxEvent)
			if err := r.Partial(ctx, contentType, body[sent:end]); err != nil {
				return fmt.Errorf("pass a part of the reply on: %w", err)
			}
			sent = end
		}
		return nil
	}
	quiet := time.NewTimer(quietTime)
	defer quiet.Stop()
	for {
		select {
		case p := <-pieces:
			if len(body)+len(p.data) > u.MaxReply {
				return nil, tooLarge(u.MaxReply)
			}
			body = append(body, p.data...)
			if split != nil {
				for end := split(body[sent:]); end > 0; end = split(body[sent:]) {
					if err := partial(sent + end); err != nil {
						return nil, err
					}
				}
			}
			if errors.Is(p.err, io.EOF) {
				if sent > 0 && sent < len(body) {
					return body, partial(len(body))
				}
				return body, nil
			}
			if p.err != nil {
				return nil, u.broke(ctx, p.err)
			}
			quiet.Reset(quietTime)
		case <-quiet.C:
			if split == nil {
				if err := partial(len(body)); err != nil {
					return nil, err
				}
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (u *Upstream) whole(ctx context.Context, response *http.Response) ([]byte, error) {
	if response.Request.Method == http.MethodHead { // the length is that of what was not sent
		return nil, nil
	}
	body := make([]byte, response.ContentLength)
	if _, err := io.ReadFull(response.Body, body); err != nil {
		return nil, u.broke(ctx, err)
	}
	return body, nil
}

// broke is an answer whose rest did not come: whether the backend did its work
// is unknown, as with any attempt that is tried again.
func (u *Upstream) broke(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	u.limit.overloaded()
	return worker.Retry(fmt.Errorf("the answer of the backend broke off: %w", withoutURL(err)), 0)
}

func tooLarge(most int) error {
	return worker.Fail("reply_too_large", fmt.Sprintf("The answer of the backend is larger than the %d bytes that this gateway keeps.", most))
}

// splitter returns where the first whole piece of a body ends, 0 for none yet;
// nil for a content type that has no pieces.
func splitter(contentType string) func([]byte) int {
	media, _, _ := mime.ParseMediaType(contentType)
	switch media {
	case "text/event-stream":
		return func(b []byte) int {
			end := 0
			for _, blank := range []string{"\n\n", "\r\n\r\n", "\r\r"} {
				if i := bytes.Index(b, []byte(blank)); i >= 0 && (end == 0 || i+len(blank) < end) {
					end = i + len(blank)
				}
			}
			return end
		}
	case "application/x-ndjson", "application/jsonl", "application/json-lines", "application/jsonlines", "application/json-seq":
		return func(b []byte) int { return bytes.IndexByte(b, '\n') + 1 }
	}
	return nil
}
