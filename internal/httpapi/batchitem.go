package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// batchItem reads one item as a submit of its own: its options become the headers
// that they are short for, over those of the call, and go the same way.
func (s *Server) batchItem(r *http.Request, raw json.RawMessage) (broker.Submission, error) {
	fields, ok := fieldsOf(raw)
	if !ok {
		return broker.Submission{}, fail("invalid-request", "The item is no JSON object, has a field twice, or has more than %d. Nothing was accepted.", maxFields)
	}
	one := r.Clone(r.Context())
	one.URL.RawQuery = "" // it is the batch's
	one.Header.Del("Content-Type")
	one.Header.Del(api.HeaderIdempotencyKey)
	var service string
	if json.Unmarshal(fields["service"], &service) != nil || service == "" || fields["service"][0] != '"' {
		return broker.Submission{}, fail("invalid-option", "The item names no service. Nothing was accepted.")
	}
	if err := s.itemHeaders(one.Header, service, fields["headers"]); err != nil {
		return broker.Submission{}, err
	}
	for name, value := range fields {
		if slices.Contains([]string{"service", "headers", "content_type", "encoding", "body"}, name) {
			continue
		}
		header, text, err := formOption(name, value)
		if err != nil {
			return broker.Submission{}, err
		}
		one.Header.Set(header, text)
	}
	body, kind, err := content{fields["content_type"], fields["encoding"], fields["body"]}.read()
	if err != nil {
		return broker.Submission{}, err
	}
	if kind != "" {
		one.Header.Set("Content-Type", kind)
	}
	sub, err := s.submission(one, service)
	sub.Body = body
	return sub, inForm(err)
}

// itemHeaders sets what is to be forwarded to the worker of an item. What has a
// field of its own, or is not forwarded, has no place there.
func (s *Server) itemHeaders(h http.Header, service string, raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	var given map[string]string
	if len(raw) > maxOption || json.Unmarshal(raw, &given) != nil {
		return fail("invalid-option", "headers must be an object of strings, of %d bytes at most. Nothing was accepted.", maxOption)
	}
	seen := make(map[string]bool, len(given))
	for name, value := range given {
		name = http.CanonicalHeaderKey(name)
		goes := isForwarded(name)
		if s.Upstreams[service] {
			own := append([]string{api.HeaderPrefer, http.CanonicalHeaderKey(api.HeaderIdempotencyKey)}, hopByHop...)
			goes = validName(name) && !strings.HasPrefix(name, api.OptionPrefix) && !slices.Contains(own, name)
		}
		if !goes {
			return fail("invalid-option", "headers has %s, which is not forwarded to workers. Nothing was accepted.", quoted(name))
		}
		if seen[name] {
			return fail("invalid-option", "headers has %s twice. Nothing was accepted; give it once.", quoted(name))
		}
		seen[name] = true
		h.Set(name, value)
	}
	return nil
}

// ofItem has an error speak of an item, not of the whole call.
func ofItem(err error) error {
	f, ok := errors.AsType[failure](err)
	if !ok {
		return err
	}
	f.detail = itemDetail(f.detail)
	return f
}

func itemDetail(detail string) string {
	return strings.NewReplacer("Nothing was accepted", "The item was not accepted", "Nothing was done", "The item was not accepted").Replace(detail)
}
