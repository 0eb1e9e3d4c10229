package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tmaxmax/go-sse"

	"github.com/coatcheck/coatcheck/api"
)

const (
	streamSilence = 45 * time.Second // three heartbeats: a connection that says less is dead
	maxFrame      = 16 << 20         // bytes of one event
)

// Event is one thing that happened to a request.
type Event struct {
	// Kind is status (a snapshot or a transition), progress, partial, reset
	// (history was cut), or outcome, the last.
	Kind   string
	Status api.Status // of status and outcome
	Event  api.Event  // of progress and partial
}

// Events follows a request from the start to its outcome. It resumes by itself
// where a connection breaks, without a gap or a repeat; an error ends it.
func (c *Client) Events(ctx context.Context, id string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		last, failures := 0, 0
		for {
			over, seen, err := c.stream(ctx, id, &last, yield)
			if over {
				return
			}
			if seen {
				failures = 0
			}
			failures++
			var p api.Problem
			refused := errors.As(err, &p)
			if kind, ok := api.ProblemNamed(p.Type); ctx.Err() != nil || failures > tries || refused && (!ok || !kind.Retry) {
				if err == nil {
					err = errors.New("the stream ended before the outcome")
				}
				yield(Event{}, unwrap(err))
				return
			}
			select {
			case <-ctx.Done():
				yield(Event{}, ctx.Err())
				return
			case <-time.After(min(firstPause<<failures, longestPause)):
			}
		}
	}
}

// stream reads one connection. over: the outcome came, or the reader left.
func (c *Client) stream(ctx context.Context, id string, last *int, yield func(Event, error) bool) (over, seen bool, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	h := http.Header{"Accept": {"text/event-stream"}}
	if *last > 0 {
		h.Set(api.HeaderLastEventID, strconv.Itoa(*last))
	}
	response, err := c.once(ctx, http.MethodGet, requestPath(id, "/events"), h, nil)
	if err != nil {
		return false, false, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNoContent {
		return true, true, nil
	}
	silence := time.AfterFunc(streamSilence, stop)
	defer silence.Stop()
	body := reading{response.Body, func() { silence.Reset(streamSilence) }}
	for frame, err := range sse.Read(body, &sse.ReadConfig{MaxEventSize: maxFrame}) {
		if err != nil {
			return false, seen, fmt.Errorf("read the events: %w", err)
		}
		e, err := parse(frame)
		if err != nil {
			return false, seen, err
		}
		if n, err := strconv.Atoi(frame.LastEventID); err == nil && n > *last {
			*last, seen = n, true
		}
		if !yield(e, nil) || e.Kind == "outcome" {
			return true, true, nil
		}
	}
	return false, seen, nil
}

func parse(frame sse.Event) (Event, error) {
	e := Event{Kind: frame.Type}
	var err error
	switch frame.Type {
	case "status", "outcome":
		err = json.Unmarshal([]byte(frame.Data), &e.Status)
	case "progress", "partial":
		err = json.Unmarshal([]byte(frame.Data), &e.Event)
	}
	if err != nil {
		return e, fmt.Errorf("read a %s event: %w", strings.TrimSpace(frame.Type), err)
	}
	return e, nil
}

// reading tells of each read that brought something, heartbeats too.
type reading struct {
	from  interface{ Read([]byte) (int, error) }
	alive func()
}

func (r reading) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if n > 0 {
		r.alive()
	}
	return n, err
}
