package httpapi

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// longestType bounds a content type; the registry's longest has 92 characters.
const longestType = 256

// reply answers with the worker's own bytes, once there are any.
func (s *Server) reply(w http.ResponseWriter, r *http.Request) error {
	id, err := s.id(r)
	if err != nil {
		return err
	}
	record, err := s.Broker.Status(r.Context(), id)
	if err != nil {
		return err
	}
	if !record.Status.Terminal() {
		w.Header().Set("ETag", etag(record))
		w.Header().Set("Retry-After", strconv.Itoa(s.Broker.RetryAfter(r.Context(), record)))
		d := s.document(r.Context(), record)
		s.writeStatus(w, r, http.StatusAccepted, &d)
		return nil
	}
	switch {
	case record.Status == broker.Canceled:
		return failure{slug: "canceled"}
	case record.Status == broker.TimedOut:
		return failure{slug: "timed-out", detail: why(record) + final(record)}
	case record.Status == broker.Succeeded && record.Reply == nil: // as asked for by return=minimal
		w.Header().Set(api.HeaderCorrelationID, id.String())
		w.Header().Set(api.HeaderOutcome, string(record.Status))
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
		return nil
	case record.Reply == nil: // failed, and the worker left no bytes
		return failure{slug: "reply-failed", detail: why(record) + final(record)}
	}
	return s.raw(w, r, record, replyCode(record))
}

// why is what ended the request, as a sentence: another follows.
func why(r broker.Record) string {
	if r.Error == nil || strings.TrimSpace(r.Error.Message) == "" {
		return "The request is " + string(r.Status) + "."
	}
	said := strings.TrimSpace(r.Error.Message)
	if !strings.HasSuffix(said, ".") && !strings.HasSuffix(said, "!") && !strings.HasSuffix(said, "?") {
		said += "."
	}
	return said
}

// final is what can be done about a failure. It must fit Retry of the broker: a
// scatter keeps no body of which a request could be made.
func final(r broker.Record) string {
	if r.Legs != nil {
		return " That outcome is final; submit the scatter again if the work is still wanted."
	}
	return " That outcome is final; POST /v1/requests/" + r.ID.String() + "/retry makes a new request of the same body, if the work is still wanted."
}

// replyCode is the worker's status code, where it is one that an answer with a
// body may have. A failure never looks like a success.
func replyCode(r broker.Record) int {
	code := r.Reply.StatusCode
	if r.Status == broker.Failed {
		if code < 400 || code > 599 {
			return http.StatusBadGateway
		}
		return code
	}
	bodiless := code == http.StatusNoContent || code == http.StatusResetContent
	if code < 200 || code > 599 || code == http.StatusNotModified || bodiless && r.Reply.Size > 0 {
		return http.StatusOK
	}
	return code
}

// raw writes the worker's bytes. They are strangers' bytes on this origin: the
// headers see to it that a browser neither guesses their type nor runs them.
func (s *Server) raw(w http.ResponseWriter, r *http.Request, record broker.Record, code int) error {
	share := memory{server: s}
	defer share.release()
	if record.Reply.Body == nil && record.Reply.Size > 0 { // too large to come along with the status
		if err := share.grow(r.Context(), min(int64(record.Reply.Size), s.Inflight)); err != nil {
			return err
		}
		whole, err := s.Broker.Reply(r.Context(), record.ID)
		if err != nil {
			return err
		}
		record = whole
	}
	body := record.Reply.Body
	h := w.Header()
	replyHeaders(h, record.Reply.Headers)
	h.Set(api.HeaderCorrelationID, record.ID.String())
	h.Set(api.HeaderOutcome, string(record.Status))
	cacheHeaders(h, record)
	h.Set("Content-Type", contentType(record.Reply.ContentType))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	if code != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(writeTimeout + time.Duration(len(body)/replyFloor)*time.Second))
	w.WriteHeader(code)
	if _, err := w.Write(body); err == nil && control.Flush() == nil {
		_ = control.SetWriteDeadline(time.Time{}) // the connection goes on to other calls
	}
	return nil // a client that left is nobody's error
}

// contentType vets what a worker said: it goes into a header.
func contentType(said string) string {
	if _, _, err := mime.ParseMediaType(said); err != nil || unfit(said) || len(said) > longestType {
		return "application/octet-stream"
	}
	return said
}
