package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/sse"
	"github.com/coatcheck/coatcheck/internal/watch"
)

// patience is for how long a stream keeps its handler. Most replies come within it,
// and their connections go on as those of any call.
const patience = 100 * time.Millisecond

// follower is one open stream: what it has written, and what comes next.
type follower struct {
	server *Server
	notes  *notes
	code   int // HTTP status of the answer
	hide   redactor
	watch  *watch.Watch // nil once it is closed
	stream *sse.Stream  // nil before it is open
	after  int          // number of the last event written
	shown  shown        // by the last status event
	unsure bool         // what the snapshot shows may be old
}

// shown is what a status event tells of beside the numbered events.
type shown struct {
	status  broker.Status
	attempt int
}

func shownOf(r broker.Record) shown { return shown{r.Status, r.Attempt} }

// follow writes until the outcome, the reader's end, or the drain; a stream at which
// nothing happens goes on without its handler. While Redis is away it stays open, and
// goes on when Redis is back.
func (f *follower) follow(w http.ResponseWriter, r *http.Request, record broker.Record) {
	f.server.streams.Add(1)
	f.stream = sse.Open(w, f.code)
	var err error
	if !f.unsure && record.Status.Terminal() && f.after == record.Events-1 {
		err = f.whole(record)
	} else {
		err = f.status(r.Context(), record) // the snapshot
		if err == nil {
			err = f.stream.Flush()
		}
		if err == nil {
			err = f.handled(r, record)
		}
	}
	if f.notes.parked {
		return
	}
	if err == nil {
		err = f.stream.End()
	}
	if err != nil {
		f.server.log(r).Debug("a stream ended early", "error", err)
	}
}

// whole is all there is to tell of a request that has its outcome: the snapshot and the
// outcome, which are one document. It goes out in one piece, unless that is large.
func (f *follower) whole(record broker.Record) error {
	document, err := f.encode(broker.Document(record, f.server.PublicURL))
	if err != nil {
		return err
	}
	if err := f.stream.Send("status", "", document); err != nil {
		return err
	}
	return f.stream.Send("outcome", strconv.Itoa(record.Events), document)
}

// encode writes a status document as this reader may see it.
func (f *follower) encode(d api.Status) ([]byte, error) {
	f.hide.status(&d)
	document, err := broker.AppendStatus(nil, &d)
	if err != nil {
		return nil, fmt.Errorf("encode a status: %w", err)
	}
	return document, nil
}

// handled follows by the handler. An error says why the stream ended before its
// outcome.
func (f *follower) handled(r *http.Request, record broker.Record) error {
	if f.unsure || record.Status.Terminal() || f.after < record.Events {
		if done, err := f.CatchUp(); done || err != nil {
			return err
		}
	}
	heartbeat := time.NewTicker(sse.HeartbeatEvery)
	defer heartbeat.Stop()
	opened := time.Now()
	patience := time.NewTimer(patience)
	defer patience.Stop()
	for {
		select {
		case <-f.watch.Again():
			if done, err := f.CatchUp(); done || err != nil {
				return err
			}
		case <-heartbeat.C:
			if err := f.stream.Heartbeat(); err != nil {
				return err
			}
		case <-patience.C:
			if f.park(r, time.Until(opened.Add(sse.HeartbeatEvery))) {
				return nil
			}
		case <-r.Context().Done():
			return r.Context().Err()
		case <-f.server.Hub.Draining():
			return nil // the client comes back to another gateway, which goes on after the last event
		}
	}
}

// park lets the handler go where the connection can be taken from net/http.
func (f *follower) park(r *http.Request, heartbeat time.Duration) bool {
	route := chi.RouteContext(r.Context()).RoutePattern() // what is in the context belongs to the handler
	parked := f.server.idle.Park(f.stream, r, f, heartbeat)
	if parked == nil {
		return false
	}
	kept := *f.notes // or all that the handler had would stay
	kept.route, kept.parked = route, true
	f.notes, callOf(r).parked = &kept, true
	f.watch.Tell(parked.Wake)
	parked.Begin()
	return true
}

// Ended is told that the stream has ended without its handler.
func (f *follower) Ended(err error) {
	if err != nil {
		f.server.logOf(f.notes).Debug("a stream ended early", "error", err)
	}
	f.server.logCall(f.notes, f.code, f.stream.Written())
	f.close()
}

// leave is the handler's end, which is that of a stream that was not parked.
func (f *follower) leave() {
	if !f.notes.parked {
		f.close()
	}
}

func (f *follower) close() {
	f.watch.Close()
	if f.stream != nil {
		f.server.streams.Add(-1)
	}
}

// CatchUp writes what is new. done says that the outcome was the last word. While
// Redis can't be asked it has itself called again.
func (f *follower) CatchUp() (done bool, err error) {
	done, err = f.catchUp(context.Background())
	switch {
	case errors.Is(err, broker.ErrUnavailable):
		time.AfterFunc(f.watch.Pause(), f.watch.Poke)
		return false, nil
	case err != nil || done:
		return done, err
	}
	return false, f.stream.Flush()
}

// catchUp adds what is new, oldest first.
func (f *follower) catchUp(ctx context.Context) (done bool, err error) {
	for {
		answer, err := f.watch.Events(ctx, f.after)
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
			if err := f.status(ctx, record); err != nil {
				return true, err
			}
		}
		news, err := f.news(answer)
		if err != nil {
			return true, err
		}
		if err := f.stream.Add(news); err != nil {
			return true, err
		}
		if n := len(answer.Events); n > 0 {
			f.after = answer.Events[n-1].Number
		}
		if f.after >= last { // otherwise there is more history than one read returns
			return record.Status.Terminal(), nil
		}
	}
}

// news are the numbered events of an answer. Those who share a read and hide nothing
// share them: that of an outcome which thousands wait for is made once.
func (f *follower) news(answer watch.Answer) ([]byte, error) {
	if f.hide.shows() {
		return answer.Share(func() ([]byte, error) { return f.frames(answer) })
	}
	return f.frames(answer)
}

func (f *follower) frames(answer watch.Answer) (b []byte, err error) {
	record, after := answer.Record, f.after
	for _, e := range answer.Events {
		if b, err = appendEvent(b, e.Type, strconv.Itoa(e.Number), f.hide.event(broker.EventDocument(e))); err != nil {
			return nil, err
		}
		after = e.Number
	}
	if record.Status.Terminal() && after >= record.Events-1 {
		document, err := f.encode(broker.Document(record, f.server.PublicURL))
		if err != nil {
			return nil, err
		}
		b = sse.AppendFrame(b, "outcome", strconv.Itoa(record.Events), document)
	}
	return b, nil
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
	return sendAs(f.stream, "reset", "", api.Reset{First: first, Last: a.Record.Events})
}

// status writes a snapshot or a transition. It has no number: it says where the
// request stands, whatever was seen before.
func (f *follower) status(ctx context.Context, record broker.Record) error {
	f.shown = shownOf(record)
	document, err := f.encode(f.server.document(ctx, record))
	if err != nil {
		return err
	}
	return f.stream.Send("status", "", document)
}

// sendAs adds an event; id "" means none.
func sendAs(stream *sse.Stream, event, id string, v any) error {
	frame, err := appendEvent(nil, event, id, v)
	if err != nil {
		return err
	}
	return stream.Add(frame)
}

func appendEvent(b []byte, event, id string, v any) ([]byte, error) {
	data, err := broker.EncodeJSON(v)
	if err != nil {
		return nil, fmt.Errorf("encode the event %s: %w", event, err)
	}
	return sse.AppendFrame(b, event, id, data), nil
}
