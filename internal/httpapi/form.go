package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"

	"github.com/coatcheck/coatcheck/api"
)

// Limits of a document, beyond which nobody can mean it. They bound what reading it
// takes: of a body full of tiny values, each as a Go value has many times its bytes.
const (
	maxFields = 64
	maxOption = 64 << 10 // bytes of a field that is an option; a header of a call has no more
)

// optionHeaders are the options of a submit as a JSON document names them.
var optionHeaders = func() map[string]string {
	all := map[string]string{
		"idempotency_key": api.HeaderIdempotencyKey, "traceparent": api.HeaderTraceparent, "cache_control": "Cache-Control",
	}
	for _, header := range api.Options {
		all[optionField(header)] = header
	}
	return all
}()

func optionField(header string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(header, api.OptionPrefix)), "-", "_")
}

// elements cuts a JSON array or object, which is known to be valid, into what stands
// between its commas: slices of raw, none is copied. It stops once there are more
// than most.
func elements(raw []byte, most int) (parts []json.RawMessage) {
	depth, from, text := 0, 0, false
	add := func(to int) {
		if part := bytes.TrimSpace(raw[from:to]); len(part) > 0 {
			parts = append(parts, part)
		}
		from = to + 1
	}
	for i := 0; i < len(raw) && len(parts) <= most; i++ {
		switch c := raw[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == '[' || c == '{':
			if depth++; depth == 1 {
				from = i + 1
			}
		case c == ']' || c == '}':
			if depth--; depth == 0 {
				add(i)
			}
		case c == ',' && depth == 1:
			add(i)
		}
	}
	return parts
}

// fieldsOf reads the fields of a JSON object, as slices of raw. It is not ok either
// where one is there twice: which of the two was meant can't be told.
func fieldsOf(raw []byte) (fields map[string]json.RawMessage, ok bool) {
	if raw = bytes.TrimSpace(raw); !bytes.HasPrefix(raw, []byte("{")) || !json.Valid(raw) {
		return nil, false
	}
	members := elements(raw, maxFields)
	if len(members) > maxFields {
		return nil, false
	}
	fields = make(map[string]json.RawMessage, len(members))
	for _, member := range members {
		end := 1 // behind the name
		for ; member[end] != '"'; end++ {
			if member[end] == '\\' {
				end++
			}
		}
		var name string
		if json.Unmarshal(member[:end+1], &name) != nil {
			return nil, false
		}
		if _, twice := fields[name]; twice {
			return nil, false
		}
		fields[name] = bytes.TrimLeft(member[end+1:], ": \t\r\n")
	}
	return fields, true
}

// itemsOf reads a JSON array, as slices of raw; one element more than most says that
// there are more.
func itemsOf(raw []byte, most int) (items []json.RawMessage, ok bool) {
	if raw = bytes.TrimSpace(raw); !bytes.HasPrefix(raw, []byte("[")) || !json.Valid(raw) {
		return nil, false
	}
	return elements(raw, most), true
}

// optionText is what would stand in the header: a string, a number, a boolean, or a
// list of strings.
func optionText(raw json.RawMessage) (string, bool) {
	var v any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if decoder.Decode(&v) != nil {
		return "", false
	}
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		if v {
			return "true", true
		}
		return "false", true
	case []any:
		texts := make([]string, len(v))
		for i, one := range v {
			text, ok := one.(string)
			if !ok {
				return "", false
			}
			texts[i] = text
		}
		return strings.Join(texts, ","), true
	}
	return "", false
}

// formOption reads a field of a document as the header that it stands for.
func formOption(name string, raw json.RawMessage) (header, text string, err error) {
	if len(raw) > maxOption {
		return "", "", fail("invalid-option", "%s has %d bytes, more than any option. Nothing was accepted.", quoted(name), len(raw))
	}
	text, ok := optionText(raw)
	if !ok {
		return "", "", fail("invalid-option", "%s must be a string, a number, true or false, or a list of strings. Nothing was accepted.", quoted(name))
	}
	if name == "return" {
		if text != "minimal" && text != "representation" {
			return "", "", fail("invalid-option", "return is %s; it must be minimal or representation. Nothing was accepted.", quoted(text))
		}
		return api.HeaderPrefer, "return=" + text, nil
	}
	header, ok = optionHeaders[name]
	if !ok {
		return "", "", fail("invalid-option", "There is no field %s. Nothing was accepted; the options are those of a submit in snake_case.", quoted(name))
	}
	return header, text, nil
}

// inForm has an error name options as the document does.
func inForm(err error) error {
	f, ok := errors.AsType[failure](err)
	if !ok {
		return err
	}
	for field, header := range optionHeaders {
		f.detail = strings.ReplaceAll(f.detail, header+" ", field+" ")
	}
	return f
}

// read is the body as its worker gets it, with its content type: what is said, or
// what goes with the encoding.
func (c content) read() (body []byte, contentType string, err error) {
	var kind, encoding, text string
	for _, field := range []struct {
		name string
		raw  json.RawMessage
		into *string
	}{{"content_type", c.kind, &kind}, {"encoding", c.encoding, &encoding}} {
		if field.raw != nil && (json.Unmarshal(field.raw, field.into) != nil || field.raw[0] != '"') {
			return nil, "", fail("invalid-option", "%s must be a string. Nothing was accepted.", field.name)
		}
	}
	if c.body == nil {
		return nil, kind, nil
	}
	if encoding == "text" || encoding == "base64" {
		if json.Unmarshal(c.body, &text) != nil || c.body[0] != '"' {
			return nil, "", fail("invalid-option", "The body must be a string where encoding is %s. Nothing was accepted.", encoding)
		}
	}
	usual := ""
	switch encoding {
	case "", "json":
		body, usual = c.body, "application/json"
	case "text":
		body, usual = []byte(text), "text/plain; charset=utf-8"
	case "base64":
		if body, err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, "", fail("invalid-option", "The body is no base64. Nothing was accepted.")
		}
		usual = "application/octet-stream"
	default:
		return nil, "", fail("invalid-option", "encoding is %s; it must be json, text or base64. Nothing was accepted.", quoted(encoding))
	}
	if kind == "" {
		kind = usual
	}
	return body, kind, nil
}
