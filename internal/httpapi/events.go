package httpapi

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/auth"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/watch"
)

// events streams a request: snapshot, history, live tail, the outcome, end.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	who, err := s.streamPrincipal(r)
	if err != nil {
		return err
	}
	id, err := s.id(r, who.Tenant)
	if err != nil {
		return err
	}
	after, err := lastEventID(r)
	if err != nil {
		return err
	}
	if s.draining.Load() {
		return failure{slug: "draining"}
	}
	watch := s.Hub.Watch(id) // before the first read, so that nothing falls between
	defer watch.Close()
	record, err := s.Broker.Attach(r.Context(), id)
	if err != nil {
		return err
	}
	if record.Status.Terminal() && after >= record.Events {
		w.WriteHeader(http.StatusNoContent) // ends an EventSource
		return nil
	}
	s.streams.Add(1)
	defer s.streams.Add(-1)
	f := follower{server: s, id: id, after: min(after, record.Events), watch: watch, stream: openStream(w)}
	if err := f.start(record); err == nil {
		f.follow(r)
	}
	return nil // the answer has begun: what goes wrong now is said by closing
}

// streamPrincipal takes a stream ticket instead of an API key.
func (s *Server) streamPrincipal(r *http.Request) (auth.Principal, error) {
	if ticket := r.URL.Query().Get("ticket"); ticket != "" {
		return auth.CheckTicket(s.Broker.Secret(), ticket, chi.URLParam(r, "id"), time.Now())
	}
	who, err := s.Keys.Authenticate(r.Header.Get("Authorization"))
	if err == nil && !who.May(auth.Read) {
		err = fail("forbidden", "This call needs the scope %q, which the API key does not have.", auth.Read)
	}
	return who, err
}

func lastEventID(r *http.Request) (int, error) {
	text := r.Header.Get(api.HeaderLastEventID)
	if text == "" {
		text = r.URL.Query().Get("last_event_id")
	}
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fail("invalid-option", "Last-Event-ID is %q; it must be the number of an event of this request.", text)
	}
	return n, nil
}

// follower is one open stream.
type follower struct {
	server *Server
	id     correlation.ID
	after  int // number of the last event written
	shown  string
	watch  *watch.Watch
	stream *stream
}

func (f *follower) start(record broker.Record) error {
	if err := f.stream.retry(); err != nil {
		return err
	}
	if record.Status.Terminal() {
		return nil // history first; the outcome is the last word
	}
	f.shown = shownState(record)
	return f.stream.send("status", 0, broker.Document(record, f.server.PublicURL))
}

// follow writes until the outcome, the reader's end, or the drain. While Redis
// is away it keeps the stream open, and goes on when it is back.
func (f *follower) follow(r *http.Request) {
	heartbeat := time.NewTicker(heartbeatEvery)
	defer heartbeat.Stop()
	for {
		done, err := f.catchUp(r)
		if done || err != nil && !errors.Is(err, broker.ErrUnavailable) {
			return
		}
		select {
		case <-f.watch.Again():
		case <-heartbeat.C:
			if f.stream.heartbeat() != nil {
				return
			}
		case <-r.Context().Done():
			return
		case <-f.server.Hub.Draining():
			return
		}
	}
}

// catchUp writes what is new. done says that the stream is over.
func (f *follower) catchUp(r *http.Request) (done bool, err error) {
	for {
		record, events, first, err := f.server.Broker.Events(r.Context(), f.id, f.after)
		if err != nil {
			return false, err
		}
		f.watch.Seen(record)
		if first > f.after+1 {
			if err := f.stream.send("reset", 0, api.Reset{First: first, Last: record.Events}); err != nil {
				return true, err
			}
		}
		if state := shownState(record); state != f.shown && !record.Status.Terminal() {
			f.shown = state
			if err := f.stream.send("status", 0, f.server.document(r.Context(), record)); err != nil {
				return true, err
			}
		}
		for _, e := range events {
			if err := f.stream.send(e.Type, e.Number, broker.EventDocument(e)); err != nil {
				return true, err
			}
			f.after = e.Number
		}
		last := record.Events
		if record.Status.Terminal() {
			last--
		}
		if f.after < last && len(events) > 0 {
			continue // there is more history than one read returns
		}
		if !record.Status.Terminal() {
			return false, nil
		}
		return true, f.stream.send("outcome", record.Events, broker.Document(record, f.server.PublicURL))
	}
}

// shownState is what a status event tells of beside the numbered ones.
func shownState(r broker.Record) string { return string(r.Status) + "." + strconv.Itoa(r.Attempt) }
