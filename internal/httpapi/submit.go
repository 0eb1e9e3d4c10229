package httpapi

import (
	"context"
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// submit takes a request in. It validates everything before it reads the body,
// and reads the body before it asks Redis.
func (s *Server) submit(w http.ResponseWriter, r *http.Request) error {
	if s.draining.Load() {
		return failure{slug: "draining"}
	}
	service := chi.URLParam(r, "service")
	sub, err := s.submission(r, service, principal(r).Tenant)
	if err != nil {
		return err
	}
	known, err := s.Broker.KnowsService(r.Context(), service)
	if err != nil {
		return err
	}
	if !known {
		return fail("unknown-service", "No worker ever announced the service %q and no configuration names it, so nothing would answer. Nothing was accepted; start its worker, or see /v1/services.", service)
	}
	body, release, err := s.body(w, r)
	if err != nil {
		return err
	}
	sub.Body = body
	// From here on the client may hang up: what is committed stays committed.
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), submitTimeout)
	defer stop()
	record, replayed, err := s.Broker.Submit(ctx, sub)
	sub.Body = nil
	release()
	if err != nil {
		return s.refused(r, err, service)
	}
	note(r, record.ID.String())
	h := w.Header()
	h.Set(api.HeaderCorrelationID, record.ID.String())
	if replayed {
		h.Set(api.HeaderIdempotencyReplayed, "true")
	}
	if prefer := preferences(r.Header); prefer.waits {
		h.Set(api.HeaderPreferenceApplied, prefer.applied)
		if record, err = s.await(r, record, prefer); err != nil {
			return err
		}
		if record.Status.Terminal() {
			return s.writeReply(w, r, record)
		}
	}
	document := s.document(r.Context(), record)
	h.Set("Location", document.Links.Self)
	h.Set("Retry-After", strconv.Itoa(s.Broker.RetryAfter(r.Context(), record)))
	s.writeJSON(w, http.StatusAccepted, document)
	return nil
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
func (s *Server) await(r *http.Request, record broker.Record, p preference) (broker.Record, error) {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	ctx, stop := context.WithTimeout(r.Context(), p.wait)
	defer stop()
	newer, err := s.Hub.Wait(ctx, record.ID, func(broker.Record) bool { return false })
	if err != nil {
		return record, nil
	}
	return newer, nil
}

// document is the status document with its estimates, while it is queued.
func (s *Server) document(ctx context.Context, record broker.Record) api.Status {
	d := broker.Document(record, s.PublicURL)
	if position, start, ok := s.Broker.Position(ctx, record); ok {
		d.QueuePosition, d.EstimatedStart = position, api.Time(start)
	}
	return d
}
