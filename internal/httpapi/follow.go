package httpapi

import (
	"errors"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/watch"
)

// follower is one open stream: what it has written, and what comes next.
type follower struct {
	server *Server
	after  int   // number of the last event written
	shown  shown // by the last status event
	hide   redactor
	watch  *watch.Watch
	stream *stream
}

// shown is what a status event tells of beside the numbered events.
type shown struct {
	status  broker.Status
	attempt int
}

func shownOf(r broker.Record) shown { return shown{r.Status, r.Attempt} }

// follow writes until the outcome, the reader's end, or the drain. While Redis
// is away it keeps the stream open, and goes on when it is back. An error says
// why the stream ended before its outcome.
func (f *follower) follow(r *http.Request, record broker.Record) error {
	if err := f.stream.retry(); err != nil {
		return err
	}
	if err := f.status(r, record); err != nil { // the snapshot
		return err
	}
	heartbeat := time.NewTicker(heartbeatEvery)
	defer heartbeat.Stop()
	var failed <-chan time.Time // set while Redis can't be asked
	behind := true
	for {
		if behind {
			done, err := f.catchUp(r)
			switch {
			case errors.Is(err, broker.ErrUnavailable):
				failed = time.After(f.watch.Pause())
			case done || err != nil:
				return err
			default:
				failed = nil
			}
		}
		behind = true
		select {
		case <-f.watch.Again():
		case <-failed:
		case <-heartbeat.C:
			behind = false
			if err := f.stream.heartbeat(); err != nil {
				return err
			}
		case <-r.Context().Done():
			return r.Context().Err()
		case <-f.server.Hub.Draining():
			return nil // the client comes back to another gateway, which goes on after the last event
		}
	}
}

// catchUp writes what is new, oldest first. done says that the outcome was the
// last word.
func (f *follower) catchUp(r *http.Request) (done bool, err error) {
	for {
		answer, err := f.watch.Events(r.Context(), f.after)
		if err != nil {
			return false, err
		}
		record, last := answer.Record, answer.Record.Events
		if record.Status.Terminal() {
			last-- // the outcome itself
		}
		if err := f.reset(answer, last); err != nil {
			return true, err
		}
		if !record.Status.Terminal() && shownOf(record) != f.shown {
			if err := f.status(r, record); err != nil {
				return true, err
			}
		}
		for _, e := range answer.Events {
			if err := f.stream.send(e.Type, e.Number, f.hide.event(broker.EventDocument(e))); err != nil {
				return true, err
			}
			f.after = e.Number
		}
		switch {
		case f.after < last: // there is more history than one read returns
		case record.Status.Terminal():
			return true, f.stream.send("outcome", record.Events, f.hide.status(broker.Document(record, f.server.PublicURL)))
		default:
			return false, nil
		}
	}
}

// reset announces history that was asked for and has been cut: a gap must not
// look like none.
func (f *follower) reset(a watch.Answer, last int) error {
	first := a.First
	if first == 0 {
		first = last + 1 // none is kept
	}
	if first <= f.after+1 {
		return nil
	}
	f.after = first - 1
	return f.stream.send("reset", 0, api.Reset{First: first, Last: a.Record.Events})
}

// status writes a snapshot or a transition. It has no number: it says where the
// request stands, whatever was seen before.
func (f *follower) status(r *http.Request, record broker.Record) error {
	f.shown = shownOf(record)
	return f.stream.send("status", 0, f.hide.status(f.server.document(r.Context(), record)))
}
