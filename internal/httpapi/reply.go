package httpapi

import (
	"mime"
	"net/http"
	"strconv"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// reply answers with the worker's own bytes.
func (s *Server) reply(w http.ResponseWriter, r *http.Request) error {
	id, err := s.id(r, principal(r).Tenant)
	if err != nil {
		return err
	}
	record, err := s.Broker.Reply(r.Context(), id)
	if err != nil {
		return err
	}
	if !record.Status.Terminal() {
		w.Header().Set("ETag", etag(record))
		w.Header().Set("Retry-After", strconv.Itoa(s.Broker.RetryAfter(r.Context(), record)))
		s.writeJSON(w, http.StatusAccepted, s.document(r.Context(), record))
		return nil
	}
	return s.writeReply(w, r, record)
}

// writeReply writes the outcome of a terminal request as a plain HTTP answer.
func (s *Server) writeReply(w http.ResponseWriter, r *http.Request, record broker.Record) error {
	id := record.ID.String()
	why := ""
	if record.Error != nil {
		why = record.Error.Message
	}
	switch record.Status {
	case broker.Canceled:
		return failure{slug: "canceled", id: id}
	case broker.TimedOut:
		return failure{slug: "timed-out", id: id, detail: why + " The outcome is recorded and final; submit again if the work is still wanted."}
	case broker.Failed:
		if record.Reply == nil {
			return failure{slug: "reply-failed", id: id, detail: why + " The outcome is recorded and final; submit again if the work is still wanted."}
		}
	}
	if record.Reply.Body == nil { // too large to come along with the status
		whole, err := s.Broker.Reply(r.Context(), record.ID)
		if err != nil {
			return err
		}
		record = whole
	}
	h := w.Header()
	h.Set(api.HeaderCorrelationID, id)
	h.Set("Content-Type", contentType(record.Reply.ContentType))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'") // a reply must not script this origin
	code := record.Reply.StatusCode
	if code < 200 || code > 599 || code == http.StatusNoContent && len(record.Reply.Body) > 0 || code == http.StatusNotModified {
		code = http.StatusOK
	}
	if code != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(record.Reply.Body)))
	}
	w.WriteHeader(code)
	_, _ = w.Write(record.Reply.Body) // a client that left is nobody's error
	return nil
}

// contentType vets what a worker said: it goes into a header.
func contentType(said string) string {
	if _, _, err := mime.ParseMediaType(said); err != nil || unfit(said) {
		return "application/octet-stream"
	}
	return said
}
