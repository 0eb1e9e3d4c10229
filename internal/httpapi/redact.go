package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/intercept"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// redactor takes out of documents what is not to be shown to people. The page
// asks for it; whoever may read the request can have it whole.
type redactor struct {
	pointers []string
	services map[string][]string // of a scatter: each answer is its service's
}

// redactor reads ?redact=; a redactor without pointers changes nothing.
func (s *Server) redactor(r *http.Request, service string) (redactor, error) {
	text, err := query(r, "redact")
	switch {
	case err != nil || text == "" || text == "false":
		return redactor{}, err
	case text != "true":
		return redactor{}, fail("invalid-option", "redact is %s; it must be true or false. The request is not affected.", quoted(text))
	}
	if service != broker.AnyService {
		return redactor{pointers: slices.Concat(s.Redact[intercept.All], s.Redact[service])}, nil
	}
	each := map[string][]string{}
	for name, own := range s.Redact {
		each[name] = slices.Concat(s.Redact[intercept.All], own)
	}
	return redactor{pointers: s.Redact[intercept.All], services: each}, nil
}

// shows tells that nothing is taken out.
func (h redactor) shows() bool { return len(h.pointers) == 0 && len(h.services) == 0 }

// of is the redactor for what a service of a scatter says.
func (h redactor) of(service string) redactor {
	if own, ok := h.services[service]; ok {
		return redactor{pointers: own}
	}
	return redactor{pointers: h.pointers}
}

func (h redactor) status(d *api.Status) {
	if len(h.services) > 0 {
		h.gathered(d)
	} else if len(h.pointers) > 0 && d.Reply.Body != nil {
		d.Reply.Encoding, d.Reply.Body = "json", h.body(string(d.Reply.Encoding), d.Reply.Body)
	}
}

// gathered looks into each answer of a scatter.
func (h redactor) gathered(d *api.Status) {
	var set api.GatheredReplies
	if d.Reply.Body == nil || json.Unmarshal(d.Reply.Body, &set) != nil {
		return
	}
	for i, one := range set.Replies {
		if own := h.of(one.Service); len(own.pointers) > 0 && one.Body != nil {
			set.Replies[i].Encoding, set.Replies[i].Body = "json", own.body(string(one.Encoding), one.Body)
		}
	}
	d.Reply.Body, _ = broker.EncodeJSON(set) // it was just read
}

func (h redactor) event(e api.Event) api.Event {
	if e.Service != "" {
		h = h.of(e.Service)
	}
	if len(h.pointers) > 0 && e.Body != nil {
		e.Encoding, e.Body = "json", h.body(string(e.Encoding), e.Body)
	}
	return e
}

// body of a document: text and base64 are no JSON to look into.
func (h redactor) body(encoding string, body api.Raw) api.Raw {
	if encoding != "json" {
		body, _ = broker.EncodeJSON(intercept.Redacted)
		return body
	}
	return intercept.Redact(body, h.pointers...)
}
