package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/auth"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/sse"
)

// maxEventID bounds the digits of a Last-Event-ID: no request has that many
// events, and the number stays within every integer on its way.
const maxEventID = 9

// moment is for how long a stream waits for an outcome before it reads what there is to
// see until then: most replies come within it, and then nothing has to be read.
const moment = 20 * time.Millisecond

// events streams a request: snapshot, history, live tail, the outcome, end.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	id, err := s.streamed(r)
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
	f := &follower{server: s, notes: &callOf(r).notes, watch: s.Hub.Watch(id), code: http.StatusOK} // it watches before the first read, so that nothing falls between
	defer f.leave()
	if after == 0 && r.Method == http.MethodGet {
		f.watch.Rest(r.Context().Done(), moment)
	}
	record, err := f.watch.Attach(context.WithoutCancel(r.Context()))
	if err != nil {
		return err
	}
	if f.hide, err = s.redactor(r, record.Service); err != nil {
		return err
	}
	w.Header().Set(api.HeaderCorrelationID, id.String())
	if record.Status.Terminal() && after >= record.Events {
		w.WriteHeader(http.StatusNoContent) // ends an EventSource
		return nil
	}
	if r.Method == http.MethodHead {
		return sse.Open(w, f.code).Flush()
	}
	f.after = min(after, record.Events)
	f.follow(w, r, record)
	return nil // the answer has begun: what goes wrong now is said by closing
}

// streamed says which request the caller may follow. A stream ticket stands
// for an API key, since a browser's EventSource can't send headers.
func (s *Server) streamed(r *http.Request) (correlation.ID, error) {
	ticket, err := query(r, "ticket")
	if err != nil {
		return correlation.ID{}, err
	}
	if ticket == "" {
		if err := s.allowed(r, auth.Read); err != nil {
			return correlation.ID{}, err
		}
		return s.id(r)
	}
	id, err := pathID(r)
	if err != nil {
		return id, badTicket(auth.ErrTicket) // as any ticket for what is not there
	}
	who, err := auth.CheckTicket(s.Broker.Secret(), ticket, id.String(), time.Now())
	if err != nil {
		return id, badTicket(err)
	}
	callOf(r).who = who
	return s.id(r)
}

// badTicket says what to do instead of sending an API key here.
func badTicket(err error) failure {
	return failure{
		slug: "unauthenticated", cause: err,
		detail: "The stream ticket has expired, or was not made for this request. Get another one by POST to its stream-ticket, with the API key. The request is not affected.",
	}
}

// lastEventID is the number of the event after which the reader wants to go on.
// The header counts before the query: an EventSource that reconnects sets it,
// and its URL still has the number that it began with.
func lastEventID(r *http.Request) (int, error) {
	text := r.Header.Get(api.HeaderLastEventID)
	if text == "" {
		var err error
		if text, err = query(r, "last_event_id"); text == "" {
			return 0, err
		}
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || len(text) > maxEventID {
		return 0, fail("invalid-option", "Last-Event-ID is %s; it must be the number of an event of this request, or left out. The request is not affected.", quoted(text))
	}
	return int(n), nil
}
