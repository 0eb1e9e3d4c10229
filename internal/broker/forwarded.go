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

// special tells whether json.Marshal writes a character in another way than it is.
func special(c rune) bool { return c < ' ' || c > '~' || strings.ContainsRune(`"\<>&`, c) }
