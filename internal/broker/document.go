package broker

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// Document is the status document of a record: the same in poll, long-poll, the
// outcome event and a callback, byte for byte once encoded by EncodeJSON.
// publicURL stands before the links; "" makes them paths.
func Document(r Record, publicURL string) api.Status {
	self := Self(r.ID, publicURL)
	d := api.Status{
		CorrelationID: self[len(self)-correlation.TextSize:], Service: r.Service, Status: api.StatusStatus(r.Status), Reason: r.Reason,
		Attempt: r.Attempt, MaxAttempts: r.MaxAttempts, Attempts: attempts(r), Worker: r.Worker, Events: r.Events, RetryOf: r.RetryOf, RetriedAs: r.RetriedAs, Tags: r.Tags,
		CreatedAt: api.Time(r.Created), QueuedAt: api.Time(r.Queued), StartedAt: api.Time(r.Started),
		ScheduledFor: api.Time(r.Release), FinishedAt: api.Time(r.Finished), DeadlineAt: api.Time(r.Deadline), ExpiresAt: api.Time(r.Expires),
		Links: links(self),
	}
	d.Cache, d.CachedAt = api.StatusCache(r.Cache), api.Time(r.CachedAt)
	if r.Priority != PriorityNormal {
		d.Priority = api.StatusPriority(r.Priority)
	}
	if r.Legs != nil {
		d.Scatter = api.Scatter{MinReplies: r.MinReplies, Succeeded: r.succeeded(), Legs: legs(r)}
	}
	if r.Error != nil {
		d.Error = api.Error{Code: r.Error.Code, Message: r.Error.Message}
	}
	if r.Reply != nil {
		d.Reply = api.Reply{ContentType: validText(r.Reply.ContentType), StatusCode: r.Reply.StatusCode, Size: r.Reply.Size}
		if r.Reply.Body != nil {
			encoding, body := encodeBody(r.Reply.ContentType, r.Reply.Body)
			d.Reply.Encoding, d.Reply.Body = api.ReplyEncoding(encoding), body
		}
	}
	return d
}

// Self is the URL of a request. publicURL is as of Document.
func Self(id correlation.ID, publicURL string) string {
	self := make([]byte, 0, 128) // nearly all fit
	self = append(self, strings.TrimSuffix(publicURL, "/")...)
	self = append(self, "/v1/requests/"...)
	return string(id.Append(self))
}

// links are those of a request at the URL self. Their texts share one piece of memory:
// a document is made for every request.
func links(self string) api.Links {
	all := self + "/reply" + self + "/events" + self + "/cancel"
	reply := len(self) + len("/reply")
	events := reply + len(self) + len("/events")
	return api.Links{Self: self, Reply: all[:reply], Events: all[reply:events], Cancel: all[events:]}
}

// attempts are those before the present one.
func attempts(r Record) []api.Attempt {
	var list []api.Attempt
	for _, a := range r.Attempts {
		list = append(list, api.Attempt{
			Attempt: a.Number, Worker: a.Worker, StartedAt: api.Time(a.Started), EndedAt: api.Time(a.Ended),
			Error: api.Error{Code: a.Error.Code, Message: a.Error.Message},
		})
	}
	return list
}

// EventDocument is one event as the wire has it.
func EventDocument(e Event) api.Event {
	d := api.Event{Number: e.Number, Type: api.EventType(e.Type), At: api.Time(e.At), Service: e.Service, ContentType: e.ContentType}
	if e.Leg != nil {
		d.Status = api.StatusStatus(e.Leg.Status)
		if e.Leg.Reply != nil {
			d.StatusCode = e.Leg.Reply.StatusCode
		}
		if e.Leg.Error != nil {
			d.Error = api.Error{Code: e.Leg.Error.Code, Message: e.Leg.Error.Message}
		}
	}
	if e.Body == nil && e.Size > 0 {
		d.Size = e.Size
		return d
	}
	encoding, body := encodeBody(e.ContentType, e.Body)
	d.Encoding, d.Body = api.EventEncoding(encoding), body
	return d
}

// ClaimToken is the token of a claim as it travels in URLs: a slash, even as %2F,
// does not pass every proxy. Answer takes either form.
func ClaimToken(d Delivery) string { return strings.Replace(d.Token, "/", "~", 1) }

// ClaimDocument is a claim as the wire has it. publicURL is as of Document.
func ClaimDocument(d Delivery, publicURL string) api.Claim {
	encoding, body := encodeBody(d.ContentType, d.Body)
	return api.Claim{
		Token: ClaimToken(d), CorrelationID: d.ID, Service: d.Service, Attempt: d.Attempt, DeadlineAt: api.Time(d.Deadline),
		LeaseSeconds: float32(d.Lease.Seconds()), Traceparent: validText(d.Traceparent), Headers: d.Headers,
		ContentType: validText(d.ContentType), Size: len(d.Body), Encoding: api.ClaimEncoding(encoding), Body: body,
		Links: api.ClaimLinks{Replies: strings.TrimSuffix(publicURL, "/") + "/v1/claims/" + url.PathEscape(ClaimToken(d)) + "/replies"},
	}
}

// encodeBody fits opaque bytes into a JSON document: as JSON where they say
// that they are and it is true, as text where they can be, else as base64.
func encodeBody(contentType string, body []byte) (encoding string, raw json.RawMessage) {
	if isJSON(contentType) && utf8.Valid(body) && validJSON(body) { // which lets broken UTF-8 pass
		return "json", body
	}
	if utf8.Valid(body) && bytes.IndexByte(body, 0) < 0 {
		if raw, err := EncodeJSON(string(body)); err == nil {
			return "text", raw
		}
	}
	return "base64", json.RawMessage(`"` + base64.StdEncoding.EncodeToString(body) + `"`)
}

func isJSON(contentType string) bool {
	if contentType == "application/json" { // as mostly
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == "application/json" || strings.HasSuffix(media, "+json"))
}
