package httpapi

import (
	"context"
	"errors"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// replyKinds are what a worker may send, and the options that each takes beside
// seq.
var replyKinds = map[string][]string{
	"progress":  nil,
	"partial":   nil,
	"heartbeat": nil,
	"final":     {"status_code", "cache_ttl"},
	"failed":    {"status_code", "error", "error_code"},
	"retry":     {"delay", "error", "error_code"},
}

// maxReplyHeaders bounds the headers of a reply, names and values together; as JSON
// they still fit into what a record keeps.
const maxReplyHeaders = 4 << 10

// atOnce is what "delay=0" becomes: 0 itself leaves the delay to the gateway.
const atOnce = time.Millisecond

// answer takes a worker's reply to a claim. It is taken during a drain too:
// replies to accepted work go before everything else.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) error {
	reply, err := workerReply(r)
	if err != nil {
		return err
	}
	share := memory{server: s}
	defer share.release()
	if reply.Body, err = s.body(w, r, &share); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), submitTimeout)
	defer stop()
	id, now, err := s.Broker.Answer(ctx, param(r, "token"), reply)
	if !errors.Is(err, broker.ErrUnknownClaim) {
		callOf(r).id = id.String()
	}
	switch {
	case errors.Is(err, broker.ErrClaimLost):
		return failure{slug: "claim-lost", detail: whyLost(now), cause: err}
	case errors.Is(err, broker.ErrEventTooLarge):
		return fail("body-too-large", "The body of a %s reply has %d bytes, more than an event may have. It was not taken; the claim still holds. Send less, or a link to it.", reply.Type, len(reply.Body))
	case errors.Is(err, broker.ErrUnknownOutcome):
		return failure{slug: "effect-unknown", cause: err, detail: "The connection to Redis broke after the reply was passed on. Send it again: a final or failed one counts once anyway, any other where it has a seq."}
	case err != nil:
		return err
	}
	w.Header().Set(api.HeaderCorrelationID, id.String())
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// whyLost tells a worker why it should stop.
func whyLost(now broker.Status) string {
	const end = " The reply was not taken, and none would be. Stop the work, and claim anew."
	if now.Terminal() {
		return "The request has its outcome already: it is " + string(now) + "." + end
	}
	return "Another attempt at the request has begun, since this one asked for it or its lease ended without a sign of life; it is " + string(now) + " now." + end
}

// workerReply reads the options of a reply. A name that is not known is refused:
// a failure must not pass for the final reply by a typing mistake.
func workerReply(r *http.Request) (reply broker.WorkerReply, err error) {
	given, err := replyOptions(r)
	if err != nil {
		return reply, err
	}
	reply = broker.WorkerReply{Type: "final", ContentType: r.Header.Get("Content-Type")}
	if unfit(reply.ContentType) || len(reply.ContentType) > longestType {
		return reply, fail("invalid-option", "Content-Type has control characters or more than %d bytes. The reply was not taken.", longestType)
	}
	if kind, ok := given["type"]; ok {
		reply.Type = kind
	}
	takes, known := replyKinds[reply.Type]
	if !known {
		return reply, fail("invalid-option", "type is %s; it must be one of %s. The reply was not taken.", quoted(reply.Type), strings.Join(slices.Sorted(maps.Keys(replyKinds)), ", "))
	}
	for name := range given {
		if name != "type" && name != "seq" && !slices.Contains(takes, name) {
			return reply, fail("invalid-option", "A reply of type %s takes no %s. It was not taken.", reply.Type, name)
		}
	}
	if reply.Headers, err = headersOf(r); err != nil {
		return reply, err
	}
	if len(reply.Headers) > 0 && reply.Type != "final" && reply.Type != "failed" {
		return reply, fail("invalid-option", "A reply of type %s takes no %s headers. It was not taken.", reply.Type, api.HeaderClaimForwarded)
	}
	if reply.Seq, err = numeric(given, "seq", 1, math.MaxInt32); err != nil {
		return reply, err
	}
	if reply.StatusCode, err = numeric(given, "status_code", 200, 599); err != nil {
		return reply, err
	}
	if text, ok := given["delay"]; ok {
		d, fine := parseDuration(text)
		if !fine {
			return reply, fail("invalid-option", "delay is %s; it must be a duration such as 30s, or seconds. The reply was not taken.", quoted(text))
		}
		reply.Delay = max(d, atOnce)
	}
	if text, ok := given["cache_ttl"]; ok {
		d, fine := parseDuration(text)
		if !fine {
			return reply, fail("invalid-option", "cache_ttl is %s; it must be a duration such as 10m, or seconds, 0 for not at all. The reply was not taken.", quoted(text))
		}
		if reply.CacheTTL = d; d == 0 {
			reply.CacheTTL = -1
		}
	}
	if given["error"] != "" || given["error_code"] != "" {
		reply.Error = &broker.Error{Code: given["error_code"], Message: given["error"]}
	}
	return reply, nil
}

// headersOf are the headers of the client's answer: Coatcheck-Header-X-Page becomes
// x-page.
func headersOf(r *http.Request) (map[string]string, error) {
	var out map[string]string
	size := 0
	for name, values := range r.Header {
		short, ok := strings.CutPrefix(name, api.HeaderClaimForwarded)
		if !ok || short == "" {
			continue
		}
		value := strings.Join(values, ", ")
		if size += len(name) + len(value); unfit(value) || size > maxReplyHeaders {
			return nil, fail("invalid-option", "The %s headers have bytes that are not valid UTF-8 text, control characters, or more than %d bytes together. The reply was not taken.", api.HeaderClaimForwarded, maxReplyHeaders)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[strings.ToLower(short)] = value
	}
	return out, nil
}

// replyOptions gathers what is given as query parameter or as header, by the name
// of the parameter.
func replyOptions(r *http.Request) (map[string]string, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fail("invalid-option", "The query after ? can't be read; write it as name=value&name=value, percent-encoded. The reply was not taken.")
	}
	given := map[string][]string(values)
	for name, header := range api.ReplyOptions {
		if more := r.Header.Values(header); len(more) > 0 {
			given[name] = append(given[name], more...)
		}
	}
	for name := range r.Header {
		of := strings.HasPrefix(name, api.HeaderClaimForwarded) && name != api.HeaderClaimForwarded
		if strings.HasPrefix(name, api.OptionPrefix) && !of && !slices.Contains(slices.Collect(maps.Values(api.ReplyOptions)), name) {
			return nil, fail("invalid-option", "A reply has no option %s. It was not taken; the options are %s.", quoted(name), strings.Join(slices.Sorted(maps.Values(api.ReplyOptions)), ", "))
		}
	}
	single := make(map[string]string, len(given))
	for name, all := range given {
		if _, known := api.ReplyOptions[name]; !known {
			return nil, fail("invalid-option", "A reply has no parameter %s. It was not taken; the parameters are %s.", quoted(name), strings.Join(slices.Sorted(maps.Keys(api.ReplyOptions)), ", "))
		}
		if len(all) > 1 {
			return nil, fail("invalid-option", "%s is given %d times. The reply was not taken; give it once, as a parameter or as a header.", name, len(all))
		}
		if unfit(all[0]) {
			return nil, fail("invalid-option", "%s has bytes that are not valid UTF-8 text, or control characters. The reply was not taken.", name)
		}
		single[name] = all[0]
	}
	return single, nil
}

// numeric reads a whole number; 0 where it is not given.
func numeric(given map[string]string, name string, least, most int) (int, error) {
	text, ok := given[name]
	if !ok {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, fail("invalid-option", "%s is %s; it must be a number from %d to %d. The reply was not taken.", name, quoted(text), least, most)
	}
	return n, nil
}
