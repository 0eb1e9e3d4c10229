package httpapi

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// follow202 answers a submit with the events of the request, from its start. The
// acceptance is over and done with: the client may hang up without canceling, and
// comes back by the events link with Last-Event-ID.
func (s *Server) follow202(w http.ResponseWriter, r *http.Request, record broker.Record) {
	f := &follower{server: s, notes: &callOf(r).notes, watch: s.Hub.Watch(record.ID), code: http.StatusAccepted}
	defer f.leave()
	if newer, err := f.watch.Attach(r.Context()); err == nil {
		record = newer
	} else { // it was accepted all the same; the follower asks again
		s.log(r).Debug("attach to a request that was just accepted", "error", err)
		f.unsure = true
	}
	w.Header().Set(api.HeaderCorrelationID, record.ID.String())
	f.follow(w, r, record)
}

// wantsStream tells whether the client names server-sent events, and likes no
// JSON better (RFC 9110, section 12.5.1). A wildcard is no wish for a stream.
func wantsStream(h http.Header) bool {
	stream, document := 0.0, 0.0
	for _, line := range h.Values("Accept") {
		if line == "*/*" { // as many say
			continue
		}
		for _, part := range splitQuoted(line, ',') {
			media, parameters, err := mime.ParseMediaType(strings.TrimSpace(part))
			if err != nil {
				continue
			}
			q := 1.0
			if text, ok := parameters["q"]; ok {
				if q, err = strconv.ParseFloat(text, 64); err != nil {
					continue
				}
			}
			switch media {
			case "text/event-stream":
				stream = max(stream, q)
			case "application/json":
				document = max(document, q)
			}
		}
	}
	return stream > 0 && stream >= document
}
