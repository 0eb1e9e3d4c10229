package httpapi

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/span"
)

// preference is how long a client would like a call to rest (RFC 7240).
type preference struct {
	wait    time.Duration // at most longestWait; 0: not at all
	async   bool          // respond-async, which is what happens anyway
	returns string        // minimal, representation, or "" for what is the default
	applied string        // the value of Preference-Applied
}

// wish is how a client would like to be answered once its request is accepted.
type wish struct {
	preference
	stream bool // by the events of the request
}

func wishOf(h http.Header) wish { return wish{preferences(h), wantsStream(h)} }

// rests tells that somebody stays for what comes after the acceptance.
func (w wish) rests() bool { return w.wait > 0 || w.stream }

// preferences reads all Prefer lines. What is unknown or malformed is ignored,
// as section 2 of RFC 7240 asks for, and of a preference that is given twice
// the first counts.
func preferences(h http.Header) preference {
	var p preference
	lines, waits := h.Values(api.HeaderPrefer), false
	if len(lines) == 0 {
		return p
	}
	for _, line := range lines {
		for _, part := range splitQuoted(line, ',') {
			first := splitQuoted(part, ';')[0] // parameters of a preference: none are known
			name, value, _ := strings.Cut(first, "=")
			value = unquoted(strings.TrimSpace(value))
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "respond-async":
				p.async = p.async || value == ""
			case "return":
				if p.returns == "" && (value == "minimal" || value == "representation") {
					p.returns = value
				}
			case "wait":
				seconds, err := strconv.ParseUint(value, 10, 63)
				if waits || err != nil {
					continue
				}
				waits = true
				p.wait = time.Duration(min(seconds, uint64(longestWait/time.Second))) * time.Second
			}
		}
	}
	p.applied = p.answer()
	return p
}

// answer is what Preference-Applied says of p.
func (p preference) answer() string {
	var applied []string
	if p.async {
		applied = append(applied, "respond-async")
	}
	if p.wait > 0 {
		applied = append(applied, "wait="+strconv.Itoa(int(p.wait/time.Second)))
	}
	if p.returns != "" {
		applied = append(applied, "return="+p.returns)
	}
	return strings.Join(applied, ", ")
}

// waitOf reads how long a status call may rest: ?wait= over Prefer. Unlike a
// preference, a query parameter is an order, so what can't be read is refused.
func waitOf(r *http.Request) (preference, error) {
	text, err := query(r, "wait")
	if err != nil {
		return preference{}, err
	}
	if text == "" {
		p := preferences(r.Header)
		p.async, p.returns = false, "" // of a submit
		p.applied = p.answer()
		return p, nil
	}
	d, ok := parseDuration(text)
	if !ok {
		return preference{}, fail("invalid-option", "wait is %s; it must be a duration such as 10s, or whole seconds; more than %s counts as that. Nothing was changed.", quoted(text), span.Text(longestWait))
	}
	return preference{wait: min(d, longestWait)}, nil
}

// splitQuoted splits a header value, but not inside of quoted strings (RFC
// 9110, section 5.6.4).
func splitQuoted(text string, at byte) []string {
	var parts []string
	begin, inside := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inside && c == '\\':
			i++
		case c == '"':
			inside = !inside
		case !inside && c == at:
			parts = append(parts, text[begin:i])
			begin = i + 1
		}
	}
	return append(parts, text[begin:])
}

// unquoted is the value of a quoted string, or the token as it is.
func unquoted(text string) string {
	if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
		return text
	}
	var b strings.Builder
	for i := 1; i < len(text)-1; i++ {
		if text[i] == '\\' && i < len(text)-2 {
			i++
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
