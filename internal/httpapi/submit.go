package httpapi

import (
	"context"
	"net/http"
	"strconv"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// submit takes a request in. It checks everything before it reads the body, and
// reads the body before it asks Redis.
func (s *Server) submit(w http.ResponseWriter, r *http.Request) error {
	if s.draining.Load() {
		return failure{slug: "draining"}
	}
	service := param(r, "service")
	sub, err := s.submission(r, service)
	if err != nil {
		return err
	}
	known, err := s.Broker.KnowsService(r.Context(), service)
	if err != nil {
		return err
	}
	if !known {
		return fail("unknown-service", "No worker ever announced the service %s and no configuration names it, so nothing would answer. Nothing was accepted; start its worker, or see /v1/services.", quoted(service))
	}
	wish := wishOf(r.Header)
	sub.Await = s.Hub.Expect(service, wish.wait > 0)
	record, replayed, err := s.accept(w, r, sub, wish)
	if err != nil {
		return s.refused(r, err, service)
	}
	return s.accepted(w, r, record, replayed, wish)
}

// accepted answers for a request that was just committed, waiting for its reply
// where the client asked for that.
func (s *Server) accepted(w http.ResponseWriter, r *http.Request, record broker.Record, replayed bool, wish wish) error {
	self, h := broker.Self(record.ID, s.PublicURL), w.Header()
	callOf(r).id = self[len(self)-correlation.TextSize:]
	h["Location"] = []string{self}
	cacheHeaders(h, record)
	if replayed {
		h.Set(api.HeaderIdempotencyReplayed, "true")
	}
	prefer := wish.preference
	if wish.stream {
		prefer.wait = 0 // the stream is the waiting
	}
	if (prefer.returns == "minimal") != record.Minimal { // a redrive is as its dead letter was
		prefer.returns = ""
	}
	prefer.applied = prefer.answer()
	if prefer.applied != "" {
		h.Set(api.HeaderPreferenceApplied, prefer.applied)
	}
	if wish.stream {
		s.follow202(w, r, record)
		return nil
	}
	if prefer.wait > 0 {
		record = s.await(r, record, prefer)
		if answers(record) {
			err := s.raw(w, r, record, http.StatusOK)
			if err == nil {
				return nil
			}
			// It was accepted all the same, so the 202 tells of the outcome.
			s.log(r).Debug("fetch the reply", "error", err)
		}
	}
	if !record.Status.Terminal() {
		h["Retry-After"] = []string{strconv.Itoa(s.Broker.RetryAfter(r.Context(), record))}
	}
	d := s.document(r.Context(), record)
	s.writeStatus(w, r, http.StatusAccepted, &d)
	return nil
}

// accept reads the body and commits the request. From there on the client may
// hang up: what is committed stays committed.
func (s *Server) accept(w http.ResponseWriter, r *http.Request, sub broker.Submission, wish wish) (broker.Record, bool, error) {
	share := memory{server: s}
	defer share.release()
	if !wish.rests() {
		c := connOf(r) // what is committed stays committed, so nobody asks whether the client hung up
		c.watch(false)
		defer c.watch(true)
	}
	body, err := s.body(w, r, &share)
	if err != nil {
		return broker.Record{}, false, err
	}
	sub.Body = body
	if sub, err = s.intercepted(r.Context(), sub); err != nil {
		return broker.Record{}, false, err
	}
	return s.Broker.Submit(s.deadlines.next(), sub)
}

// refused says when to try again, from what the service takes.
func (s *Server) refused(r *http.Request, err error, service string) error {
	f := describe(err)
	if f.slug == "queue-full" {
		f.retryAfter = s.Broker.RetryAfter(r.Context(), broker.Record{Service: service, Status: broker.Scheduled})
	}
	return f
}

// await waits for the outcome of a request that was just accepted. What goes
// wrong while waiting does not take the acceptance back.
func (s *Server) await(r *http.Request, record broker.Record, p preference) broker.Record {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	newer, err := s.Hub.Wait(r.Context(), record.ID, p.wait, nil)
	if err != nil {
		s.log(r).Debug("wait for the outcome", "error", err)
		return record
	}
	return newer
}

// answers tells whether the raw reply may stand for the accepted request. Any
// other outcome comes as a status document with the 202: a 4xx or 5xx here says
// that the request was not accepted, which a worker must not be able to say.
func answers(r broker.Record) bool {
	return r.Status == broker.Succeeded && r.Reply != nil && r.Reply.StatusCode >= 200 && r.Reply.StatusCode < 300
}

// document is the status document, with its estimates while it is queued.
func (s *Server) document(ctx context.Context, record broker.Record) api.Status {
	d := broker.Document(record, s.PublicURL)
	if position, start, ok := s.Broker.Position(ctx, record); ok {
		d.QueuePosition, d.EstimatedStart = position, api.Time(start)
	}
	if len(record.Legs) > 0 {
		return d
	}
	if record.Status == broker.Queued || record.Status == broker.Scheduled {
		if n, ok := s.Broker.LiveWorkers(ctx, record.Service); ok {
			d.LiveWorkers = &n
		}
	}
	return d
}
