package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/tmaxmax/go-sse"

	"github.com/coatcheck/coatcheck/api"
)

const (
	streamSilence = 45 * time.Second // three heartbeats: a connection that says less is dead
	streamLived   = 5 * time.Second  // a stream that lasted so long was no failure, even without an event
	maxFrame      = 1 << 20          // bytes of one event: gateways take 256 KiB of a worker, 64 KiB of a reply
)

// Event is one thing that happened to a request.
type Event struct {
	// Kind is status (a snapshot or a transition), progress, partial, reset
	// (history was cut), or outcome, the last.
	Kind   string
	Status api.Status // of status and outcome
	Event  api.Event  // of progress and partial
	Reset  api.Reset  // of reset: what is left
}

// errCut says that a stream ended too early.
var errCut = errors.New("the stream ended before the outcome")

// Events follows a request from the start to its outcome. It resumes by itself
// where a connection breaks: what is numbered comes without a gap or a repeat,
// and a status that was shown already is not shown again. An error ends it.
func (c *Client) Events(ctx context.Context, id string) iter.Seq2[Event, error] {
	return c.follow(ctx, id, following{client: c, method: http.MethodGet, path: requestPath(id, "/events")})
}

// follow follows what a message calls name.
func (c *Client) follow(ctx context.Context, name string, f following) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		f := f
		f.yield = yield
		for failures := 0; ; {
			began, before := time.Now(), f.last
			err := f.stream(ctx)
			if f.over {
				return
			}
			if f.last > before || time.Since(began) >= streamLived {
				failures = 0
			}
			failures++
			again, ok := errors.AsType[retryable](err)
			if ok && failures < tries {
				err = rest(ctx, max(jittered(firstPause<<failures), again.after))
			}
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(Event{}, fmt.Errorf("follow %s: %w", name, bare(err)))
				return
			}
		}
	}
}

// following is one reader, over all of its connections.
type following struct {
	client *Client
	method string
	path   string
	header http.Header // and body: of a submit, until its answer names the request
	body   []byte
	yield  func(Event, error) bool
	last   int        // number of the last event
	shown  api.Status // the last one that was yielded
	over   bool       // the outcome came, or the reader left
}

// stream reads one connection to its end, which is an error unless over.
func (f *following) stream(ctx context.Context) error {
	connection, stop := context.WithCancel(ctx)
	defer stop()
	silence := time.AfterFunc(streamSilence, stop)
	defer silence.Stop()
	h := http.Header{}
	if f.header != nil {
		h = f.header.Clone()
	}
	h.Set("Accept", "text/event-stream")
	if f.last > 0 {
		h.Set(api.HeaderLastEventID, strconv.Itoa(f.last))
	}
	response, err := f.client.once(connection, f.method, f.path, h, f.body)
	if err != nil {
		return f.lost(ctx, connection, err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNoContent {
		f.over = true
		return nil
	}
	id := response.Header.Get(api.HeaderCorrelationID)
	accepted := f.method == http.MethodPost && id != ""
	if accepted { // from here on it is only read
		f.method, f.path, f.header, f.body = http.MethodGet, requestPath(id, "/events"), nil, nil
	}
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch {
	case media != "text/event-stream" && accepted: // by a gateway that streams by the other call alone
		return f.stream(ctx)
	case media != "text/event-stream":
		return fmt.Errorf("the answer is no event stream but %q: is this the address of a gateway?", media)
	}
	body := reading{response.Body, func() { silence.Reset(streamSilence) }}
	for frame, err := range sse.Read(body, &sse.ReadConfig{MaxEventSize: maxFrame}) {
		if errors.Is(err, bufio.ErrTooLong) {
			return fmt.Errorf("%w: an event above %d bytes", ErrTooLarge, maxFrame)
		}
		if err != nil {
			return retryable{fmt.Errorf("read the events: %w", err), 0}
		}
		if err := f.take(frame); err != nil || f.over {
			return err
		}
	}
	return retryable{errCut, 0}
}

// lost says whether a connection that broke is worth another one: always, as
// long as the reader is there, also where it was given up for its silence.
func (f *following) lost(ctx, connection context.Context, err error) error {
	if _, ok := errors.AsType[retryable](err); ok || ctx.Err() != nil || connection.Err() == nil {
		return err
	}
	return retryable{err, 0}
}

// take hands a frame on, unless it was seen on an earlier connection.
func (f *following) take(frame sse.Event) error {
	e, number := Event{Kind: frame.Type}, 0
	var err error
	switch frame.Type {
	case "status":
		err = json.Unmarshal([]byte(frame.Data), &e.Status)
		if f.shown.Status == e.Status.Status && f.shown.Attempt == e.Status.Attempt {
			return err
		}
		f.shown = e.Status
	case "outcome":
		err = json.Unmarshal([]byte(frame.Data), &e.Status)
		number = e.Status.Events
	case "progress", "partial":
		err = json.Unmarshal([]byte(frame.Data), &e.Event)
		number = e.Event.Number
	case "reset":
		err = json.Unmarshal([]byte(frame.Data), &e.Reset)
		f.last = max(f.last, e.Reset.First-1)
	default:
		return nil // of a gateway that is newer than this client
	}
	if err != nil {
		return fmt.Errorf("read a %s event: %w", frame.Type, err)
	}
	if number != 0 && number <= f.last {
		return nil
	}
	f.last = max(f.last, number)
	f.over = !f.yield(e, nil) || e.Kind == "outcome"
	return nil
}

// reading tells of each read that brought something, heartbeats too.
type reading struct {
	from  io.Reader
	alive func()
}

func (r reading) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if n > 0 {
		r.alive()
	}
	return n, err
}
