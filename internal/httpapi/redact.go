package httpapi

import (
	"net/http"
	"slices"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/intercept"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// redactor takes out of documents what is not to be shown to people. The page
// asks for it; whoever may read the request can have it whole.
type redactor struct{ pointers []string }

// redactor reads ?redact=; a redactor without pointers changes nothing.
func (s *Server) redactor(r *http.Request, service string) (redactor, error) {
	text, err := query(r, "redact")
	switch {
	case err != nil || text == "" || text == "false":
		return redactor{}, err
	case text != "true":
		return redactor{}, fail("invalid-option", "redact is %s; it must be true or false. The request is not affected.", quoted(text))
	}
	return redactor{slices.Concat(s.Redact[intercept.All], s.Redact[service])}, nil
}

func (h redactor) status(d api.Status) api.Status {
	if len(h.pointers) > 0 && d.Reply.Body != nil {
		d.Reply.Encoding, d.Reply.Body = "json", h.body(string(d.Reply.Encoding), d.Reply.Body)
	}
	return d
}

func (h redactor) event(e api.Event) api.Event {
	if len(h.pointers) > 0 {
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
