package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// itemOption is an option of a submit in its two spellings.
type itemOption struct{ field, header string }

// itemOptions are all of them: each option header without its prefix, and the
// standard headers that are options.
var itemOptions = func() []itemOption {
	all := []itemOption{{"idempotency_key", api.HeaderIdempotencyKey}, {"traceparent", api.HeaderTraceparent}, {"content_type", "Content-Type"}}
	for _, header := range api.Options {
		field := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(header, api.OptionPrefix)), "-", "_")
		all = append(all, itemOption{field, header})
	}
	return all
}()

// batchItem reads one item as a submit of its own: its options become the headers
// that they are short for, over those of the call, and go the same way.
func (s *Server) batchItem(r *http.Request, raw json.RawMessage) (broker.Submission, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return broker.Submission{}, fail("invalid-request", "The item is no JSON object. It was not accepted; the others are not affected.")
	}
	one := r.Clone(r.Context())
	h := one.Header
	h.Del("Content-Type")
	h.Del(api.HeaderIdempotencyKey)
	service, encoding := "", ""
	for name, value := range fields {
		if name == "body" {
			continue
		}
		if name == "headers" {
			var more map[string]string
			if json.Unmarshal(value, &more) != nil {
				return broker.Submission{}, fail("invalid-option", "headers must be an object of strings. The item was not accepted.")
			}
			for name, value := range more {
				if name = http.CanonicalHeaderKey(name); !isForwarded(name) {
					return broker.Submission{}, fail("invalid-option", "headers has %s, which is not forwarded to workers. The item was not accepted.", quoted(name))
				}
				h.Set(name, value)
			}
			continue
		}
		text, err := itemValue(name, value)
		if err != nil {
			return broker.Submission{}, err
		}
		i := slices.IndexFunc(itemOptions, func(o itemOption) bool { return o.field == name })
		switch {
		case name == "service":
			service = text
		case name == "encoding":
			encoding = text
		case name == "return":
			if text != "minimal" && text != "representation" {
				return broker.Submission{}, fail("invalid-option", "return is %s; it must be minimal or representation. The item was not accepted.", quoted(text))
			}
			h.Set(api.HeaderPrefer, "return="+text)
		case i >= 0:
			h.Set(itemOptions[i].header, text)
		default:
			return broker.Submission{}, fail("invalid-option", "An item has no field %s. The item was not accepted; the options are those of a submit in snake_case.", quoted(name))
		}
	}
	if service == "" {
		return broker.Submission{}, fail("invalid-option", "The item names no service. It was not accepted.")
	}
	body, contentType, err := itemBody(fields["body"], encoding)
	if err != nil {
		return broker.Submission{}, err
	}
	if h.Get("Content-Type") == "" && contentType != "" {
		h.Set("Content-Type", contentType)
	}
	sub, err := s.submission(one, service)
	sub.Body = body
	return sub, respelled(err)
}

// itemValue is what would stand in the header: a string, a number, or a list.
func itemValue(name string, raw json.RawMessage) (string, error) {
	var list []string
	var text string
	var number json.Number
	switch {
	case json.Unmarshal(raw, &text) == nil && raw[0] == '"':
		return text, nil
	case json.Unmarshal(raw, &number) == nil && raw[0] != '"' && number != "":
		return number.String(), nil
	case json.Unmarshal(raw, &list) == nil && raw[0] == '[':
		return strings.Join(list, ","), nil
	}
	return "", fail("invalid-option", "%s must be a string, a number or a list of strings. The item was not accepted.", quoted(name))
}

// itemBody is the body as its worker gets it, and the content type that it has
// where none is given.
func itemBody(raw json.RawMessage, encoding string) (body []byte, contentType string, err error) {
	if raw == nil {
		return nil, "", nil
	}
	if encoding == "" || encoding == "json" {
		return bytes.TrimSpace(raw), "application/json", nil
	}
	var text string
	if json.Unmarshal(raw, &text) != nil || raw[0] != '"' {
		return nil, "", fail("invalid-option", "The body of an item with encoding %s must be a string. The item was not accepted.", quoted(encoding))
	}
	switch encoding {
	case "text":
		return []byte(text), "text/plain; charset=utf-8", nil
	case "base64":
		if body, err = base64.StdEncoding.DecodeString(text); err == nil {
			return body, "application/octet-stream", nil
		}
		return nil, "", fail("invalid-option", "The body of the item is no base64. The item was not accepted.")
	}
	return nil, "", fail("invalid-option", "encoding is %s; it must be json, text or base64. The item was not accepted.", quoted(encoding))
}

// respelled has an error name options as the item does.
func respelled(err error) error {
	f, ok := err.(failure) //nolint:errorlint // as fail made it
	if !ok {
		return err
	}
	for _, o := range itemOptions {
		f.detail = strings.ReplaceAll(f.detail, o.header+" ", o.field+" ")
	}
	return f
}
