package broker

import (
	"encoding/json"
	"slices"
	"strings"
)

// encodeHeaders writes forwarded headers as the entry of a request has them, "" for none.
func encodeHeaders(headers map[string]string) (string, error) {
	if len(headers) == 0 {
		return "", nil
	}
	var few [8]string // on the stack, as many as most clients give
	names := few[:0]
	for name, value := range headers {
		if special(name) || special(value) {
			raw, err := json.Marshal(headers)
			return string(raw), err
		}
		names = append(names, name)
	}
	slices.Sort(names)
	var room [256]byte // on the stack too
	text := append(room[:0], '{')
	for _, name := range names {
		if len(text) > 1 {
			text = append(text, ',')
		}
		text = append(append(append(text, '"'), name...), `":"`...)
		text = append(append(text, headers[name]...), '"')
	}
	return string(append(text, '}')), nil
}

// decodeHeaders reads them, and those of a reply. nil where there are none, or what is there
// is not what the protocol says: the work, or the reply, is whole without.
func decodeHeaders(text []byte) (headers map[string]string) {
	if len(text) == 0 {
		return nil
	}
	if headers, ok := plainHeaders(string(text)); ok {
		return headers
	}
	if json.Unmarshal(text, &headers) != nil {
		return nil
	}
	return headers
}

// plainHeaders reads what encodeHeaders writes where nothing in it is special; not ok is for
// encoding/json.
func plainHeaders(text string) (headers map[string]string, ok bool) {
	headers = map[string]string{}
	rest, more := strings.CutPrefix(text, `{"`)
	for more {
		name, after, _ := strings.Cut(rest, `":"`)
		value, end, _ := strings.Cut(after, `"`)
		if special(name) || special(value) {
			return nil, false
		}
		headers[name] = value
		if end == "}" {
			return headers, true
		}
		rest, more = strings.CutPrefix(end, `,"`)
	}
	return nil, false
}

// special tells whether json.Marshal writes a character of s in another way than it is.
func special(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			return true
		}
	}
	return false
}
