package broker

import (
	"encoding/json"
	"strings"
)

// encodeHeaders writes forwarded headers as the entry of a request has them, "" for none.
func encodeHeaders(headers map[string]string) (string, error) {
	if len(headers) == 0 {
		return "", nil
	}
	if len(headers) == 1 { // most clients give a User-Agent, and no more
		for name, value := range headers {
			if !strings.ContainsFunc(name+value, special) {
				return `{"` + name + `":"` + value + `"}`, nil
			}
		}
	}
	raw, err := json.Marshal(headers)
	return string(raw), err
}

// decodeHeaders reads them, and those of a reply. nil where there are none, or what is there
// is not what the protocol says: the work, or the reply, is whole without.
func decodeHeaders(text []byte) (headers map[string]string) {
	if len(text) == 0 || json.Unmarshal(text, &headers) != nil {
		return nil
	}
	return headers
}

// special tells whether json.Marshal writes a character in another way than it is.
func special(c rune) bool { return c < ' ' || c > '~' || strings.ContainsRune(`"\<>&`, c) }
