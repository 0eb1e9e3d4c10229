package intercept

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// Redacted stands in the place of what is not to be shown.
const Redacted = "[redacted]"

// Redact takes the values at JSON Pointers (RFC 6901; a part may be * for every
// member or element) out of a body that is shown to people. A body that is no
// JSON is redacted as a whole: nobody can tell what is in it.
func Redact(body []byte, pointers ...string) []byte {
	if len(pointers) == 0 || len(body) == 0 {
		return body
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return []byte(`"` + Redacted + `"`)
	}
	for _, p := range pointers {
		value = redact(value, strings.Split(p, "/")[1:])
	}
	out, err := json.Marshal(value)
	if err != nil {
		return []byte(`"` + Redacted + `"`)
	}
	return out
}

var unescaper = strings.NewReplacer("~1", "/", "~0", "~")

func redact(value any, path []string) any {
	if len(path) == 0 {
		return Redacted
	}
	part := unescaper.Replace(path[0])
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			if path[0] == "*" || name == part {
				v[name] = redact(member, path[1:])
			}
		}
	case []any:
		for i, element := range v {
			if path[0] == "*" || strconv.Itoa(i) == part {
				v[i] = redact(element, path[1:])
			}
		}
	}
	return value
}
