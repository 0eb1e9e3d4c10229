package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/span"
)

// Limits of a scatter.
const (
	minServices = 2
	maxServices = 100
)

// scatter takes one request to several services in: all of it or nothing.
func (s *Server) scatter(w http.ResponseWriter, r *http.Request) error {
	if s.draining.Load() {
		return failure{slug: "draining"}
	}
	if _, err := vet(r.Header); err != nil {
		return err
	}
	record, replayed, err := s.acceptScatter(w, r)
	switch {
	case errors.Is(err, broker.ErrApart):
		return failure{
			slug: "invalid-option", cause: err,
			detail: "Services with a concurrency of their own, or with an ordering or concurrency key, each have a partition, and those of these services are different ones. Nothing was accepted; submit to them one by one.",
		}
	case errors.Is(err, broker.ErrScatterTooLarge):
		return failure{
			slug: "body-too-large", cause: err,
			detail: "The body, once for each service, is more than a scatter may have together. Nothing was accepted; send less, or to fewer services.",
		}
	case err != nil:
		return err
	}
	return s.accepted(w, r, record, replayed, wishOf(r.Header))
}

// acceptScatter reads the body and commits the scatter. From there on the client
// may hang up.
func (s *Server) acceptScatter(w http.ResponseWriter, r *http.Request) (broker.Record, bool, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return broker.Record{}, false, fail("invalid-option", "The query after ? can't be read; write it as name=value&name=value, percent-encoded. Nothing was accepted.")
	}
	share := memory{server: s}
	defer share.release()
	body, err := s.body(w, r, &share)
	if err != nil {
		return broker.Record{}, false, err
	}
	var sc broker.Scatter
	if query.Has("services") {
		sc, err = s.scatterOf(r, query, body)
	} else {
		if err := share.grow(r.Context(), min(int64(len(body)), s.Inflight-share.held)); err != nil { // what is read of it
			return broker.Record{}, false, err
		}
		sc, err = s.scatterForm(r, query, body)
	}
	if err != nil {
		return broker.Record{}, false, err
	}
	if sc.Cache.OnlyIfCached {
		return broker.Record{}, false, fail("not-cached", "Cache-Control allowed a cached reply only (only-if-cached), and a scatter shares none. Nothing was accepted; leave it out.")
	}
	for i, leg := range sc.Legs {
		if sc.Legs[i], err = s.intercepted(r.Context(), leg); err != nil {
			if f, ok := errors.AsType[failure](err); ok && f.detail != "" {
				f.detail = "For the service " + leg.Service + ": " + f.detail
				err = f
			}
			return broker.Record{}, false, err
		}
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), submitTimeout)
	defer stop()
	record, replayed, err := s.Broker.Scatter(ctx, sc)
	if errors.Is(err, broker.ErrQueueFull) {
		return record, false, s.refused(r, err, sc.Legs[0].Service)
	}
	return record, replayed, err
}

// scatterOf reads the form with an opaque body, which goes to all services.
func (s *Server) scatterOf(r *http.Request, query url.Values, body []byte) (broker.Scatter, error) {
	var services []string
	for name := range strings.SplitSeq(strings.Join(query["services"], ","), ",") {
		services = append(services, strings.TrimSpace(name))
	}
	for name, values := range query {
		if name != "services" && (!slices.Contains(gatherOptions, name) || len(values) > 1) {
			return broker.Scatter{}, fail("invalid-option", "There is no parameter %s, or it is given more than once. Nothing was accepted; a scatter takes services, %s.", quoted(name), strings.Join(gatherOptions, ", "))
		}
	}
	return s.assemble(r, services, query.Get, func(int, *http.Request) ([]byte, error) { return body, nil })
}

// gatherOptions say when a scatter is complete.
var gatherOptions = []string{"min_replies", "stall_timeout", "accept_partial"}

// assemble makes a scatter of a call: each leg is a submit of its own with the
// call's headers, which the leg's content may change.
func (s *Server) assemble(r *http.Request, services []string, option func(string) string, content func(leg int, one *http.Request) ([]byte, error)) (sc broker.Scatter, err error) {
	switch {
	case len(services) < minServices:
		return sc, fail("invalid-option", "A scatter goes to %d to %d services, and the call names %d. Nothing was accepted.", minServices, maxServices, len(services))
	case len(services) > maxServices: // where a document has far more, they were not counted
		return sc, fail("invalid-option", "There are more than %d services. Nothing was accepted; send several scatters.", maxServices)
	}
	for i, service := range services {
		if slices.Contains(services[:i], service) {
			return sc, fail("invalid-option", "The service %s is named twice. Nothing was accepted; a scatter goes to different services.", quoted(service))
		}
		one := r.Clone(r.Context())
		one.URL.RawQuery = "" // it is the scatter's
		body, err := content(i, one)
		if err != nil {
			return sc, err
		}
		leg, err := s.submission(one, service)
		if err != nil {
			return sc, err
		}
		known, err := s.Broker.KnowsService(r.Context(), service)
		if err != nil {
			return sc, err
		}
		if !known {
			return sc, fail("unknown-service", "No worker ever announced the service %s and no configuration names it, so nothing would answer. Nothing was accepted, for the other services neither; start its worker, or see /v1/services.", quoted(service))
		}
		leg.Body = body
		sc.Legs = append(sc.Legs, leg)
	}
	sc.Submission = sc.Legs[0] // what is of the whole is the same in all
	sc.Body, sc.Headers, sc.OrderingKey, sc.ConcurrencyKey = nil, nil, "", ""
	return sc, s.gathering(&sc, option)
}

// gathering reads when the scatter is complete.
func (s *Server) gathering(sc *broker.Scatter, option func(string) string) (err error) {
	if text := option("min_replies"); text != "" {
		sc.MinReplies, err = strconv.Atoi(text)
		if err != nil || sc.MinReplies < 1 || sc.MinReplies > len(sc.Legs) {
			return fail("invalid-option", "min_replies is %s; it must be a number from 1 to the %d services. Nothing was accepted.", quoted(text), len(sc.Legs))
		}
	}
	if text := option("stall_timeout"); text != "" {
		var ok bool
		sc.StallTimeout, ok = parseDuration(text)
		if b := s.Bounds; !ok || sc.StallTimeout < b.MinTimeout || sc.StallTimeout > b.MaxTimeout {
			return fail("invalid-option", "stall_timeout is %s; it must be a duration from %s to %s, such as 10s, or whole seconds. Nothing was accepted.", quoted(text), span.Text(b.MinTimeout), span.Text(b.MaxTimeout))
		}
	}
	switch text := option("accept_partial"); text {
	case "", "false":
	case "true":
		sc.AcceptPartial = true
	default:
		return fail("invalid-option", "accept_partial is %s; it must be true or false. Nothing was accepted.", quoted(text))
	}
	return nil
}

// scatterForm reads the form as a JSON document.
func (s *Server) scatterForm(r *http.Request, query url.Values, body []byte) (sc broker.Scatter, err error) {
	for name := range query {
		return sc, fail("invalid-option", "The query has %s and names no services, so the body must be a document that has all of it. Nothing was accepted.", quoted(name))
	}
	fields, ok := fieldsOf(body)
	if !ok {
		return sc, fail("invalid-request", "The body is no JSON object of up to %d different fields, and the query names no services. Nothing was accepted; send a document with services, or name them in the query and send any body.", maxFields)
	}
	whole := r.Clone(r.Context())
	whole.Header.Del("Content-Type") // it was the document's
	gather := map[string]string{}
	for name, value := range fields {
		if slices.Contains([]string{"services", "content_type", "encoding", "body"}, name) {
			continue
		}
		if slices.Contains(gatherOptions, name) {
			text, ok := optionText(value)
			if !ok {
				return sc, fail("invalid-option", "%s must be a string, a number, or true or false. Nothing was accepted.", quoted(name))
			}
			gather[name] = text
			continue
		}
		header, text, err := formOption(name, value)
		if err != nil {
			return sc, err
		}
		given := len(whole.Header.Values(header)) > 0
		if header == api.HeaderPrefer { // which has more than this
			given = preferences(whole.Header).returns != ""
		}
		if given {
			return sc, fail("invalid-option", "%s is given in the document and as a header. Nothing was accepted; give it once.", quoted(name))
		}
		whole.Header.Add(header, text)
	}
	common := content{fields["content_type"], fields["encoding"], fields["body"]}
	services, own, err := scatterLegs(fields["services"])
	if err != nil {
		return sc, err
	}
	shared, sharedType, err := common.read()
	if err != nil {
		return sc, err
	}
	sc, err = s.assemble(whole, services, func(name string) string { return gather[name] }, func(leg int, one *http.Request) ([]byte, error) {
		body, kind := shared, sharedType
		if own[leg] != nil {
			if body, kind, err = own[leg].read(); err != nil {
				return nil, err
			}
		}
		if kind != "" {
			one.Header.Set("Content-Type", kind)
		}
		return body, nil
	})
	return sc, inForm(err)
}

// content is a body inside of a document, field by field.
type content struct{ kind, encoding, body json.RawMessage }

// scatterLegs reads the services of a form: names, or objects with a body of their
// own; own is nil for the others.
func scatterLegs(raw json.RawMessage) (services []string, own []*content, err error) {
	items, ok := itemsOf(raw, maxServices)
	if !ok {
		return nil, nil, fail("invalid-option", "services must be a list of names, or of objects with service and body. Nothing was accepted.")
	}
	for _, item := range items {
		var name string
		if json.Unmarshal(item, &name) == nil && item[0] == '"' {
			services, own = append(services, name), append(own, nil)
			continue
		}
		fields, ok := fieldsOf(item)
		if !ok || json.Unmarshal(fields["service"], &name) != nil || fields["service"][0] != '"' {
			return nil, nil, fail("invalid-option", "One of services is neither a name nor an object with a service. Nothing was accepted.")
		}
		for field := range fields {
			if !slices.Contains([]string{"service", "content_type", "encoding", "body"}, field) {
				return nil, nil, fail("invalid-option", "One of services has the field %s; it may have service, content_type, encoding and body. Nothing was accepted.", quoted(field))
			}
		}
		services = append(services, name)
		if len(fields) == 1 {
			own = append(own, nil)
		} else {
			own = append(own, &content{fields["content_type"], fields["encoding"], fields["body"]})
		}
	}
	return services, own, nil
}
