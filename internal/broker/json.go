package broker

import "encoding/binary"

// What encoding/json does a byte at a time, by a table of states, takes longer than all
// else that a document with a reply of a kilobyte needs: so replies are looked through here.

// deepest is how many arrays and objects may be within each other, as encoding/json has it.
const deepest = 10000

// validJSON tells what json.Valid tells.
func validJSON(b []byte) bool {
	t := jsonText{b: b}
	return t.value(0) && t.token() == 0 && t.at == len(b)
}

// appendCompact adds valid JSON without the blanks between its tokens, as json.Compact does.
func appendCompact(to, b []byte) []byte {
	for from := 0; from < len(b); {
		end := from + 1
		switch b[from] {
		case ' ', '\t', '\r', '\n':
			from = end
			continue
		case '"':
			if t := (jsonText{b: b, at: from}); t.text() {
				end = t.at
			}
		}
		to = append(to, b[from:end]...)
		from = end
	}
	return to
}

// jsonText is JSON that is read up to at. What reads it returns false where it is none.
type jsonText struct {
	b  []byte
	at int
}

// token skips blanks and is the byte that follows, 0 at the end.
func (t *jsonText) token() byte {
	for ; t.at < len(t.b); t.at++ {
		switch c := t.b[t.at]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// take reads a token if it is c.
func (t *jsonText) take(c byte) bool {
	if t.token() != c {
		return false
	}
	t.at++
	return true
}

func (t *jsonText) value(depth int) bool {
	switch t.token() {
	case '{':
		return depth < deepest && t.list('}', func() bool { return t.token() == '"' && t.text() && t.take(':') && t.value(depth+1) })
	case '[':
		return depth < deepest && t.list(']', func() bool { return t.value(depth + 1) })
	case '"':
		return t.text()
	case 't':
		return t.word("true")
	case 'f':
		return t.word("false")
	case 'n':
		return t.word("null")
	}
	return t.number()
}

// list reads what is between brackets.
func (t *jsonText) list(end byte, element func() bool) bool {
	t.at++
	if t.take(end) {
		return true
	}
	for element() {
		if t.take(end) {
			return true
		}
		if !t.take(',') {
			return false
		}
	}
	return false
}

func (t *jsonText) word(word string) bool {
	end := t.at + len(word)
	if end > len(t.b) || string(t.b[t.at:end]) != word {
		return false
	}
	t.at = end
	return true
}

// plainEight tells whether all of eight bytes stand for themselves in a string: none is a
// quote, a backslash or a control character.
func plainEight(b []byte) bool {
	const each, top = 0x0101010101010101, 0x8080808080808080
	x := binary.LittleEndian.Uint64(b)
	quote, backslash := x^each*'"', x^each*'\\'
	return ((x-each*' ')&^x|(quote-each)&^quote|(backslash-each)&^backslash)&top == 0
}

// text reads a string, from its first quote on.
func (t *jsonText) text() bool {
	b := t.b
	for at := t.at + 1; at < len(b); at++ {
		for at+8 < len(b) && plainEight(b[at:]) {
			at += 8
		}
		switch c := b[at]; {
		case c == '"':
			t.at = at + 1
			return true
		case c < ' ' || c == '\\' && at+1 == len(b):
			return false
		case c != '\\':
			continue
		}
		at++
		switch b[at] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		case 'u':
			if at+4 >= len(b) || !hexadecimal(b[at+1:at+5]) {
				return false
			}
			at += 4
		default:
			return false
		}
	}
	return false
}

func hexadecimal(b []byte) bool {
	for _, c := range b {
		digit := '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
		if !digit {
			return false
		}
	}
	return true
}

func (t *jsonText) number() bool {
	t.skip('-')
	if !t.skip('0') && !t.digits() {
		return false
	}
	if t.skip('.') && !t.digits() {
		return false
	}
	if t.skip('e') || t.skip('E') {
		_ = t.skip('+') || t.skip('-')
		return t.digits()
	}
	return true
}

// skip reads the next byte if it is c.
func (t *jsonText) skip(c byte) bool {
	if t.at == len(t.b) || t.b[t.at] != c {
		return false
	}
	t.at++
	return true
}

// digits reads one or more.
func (t *jsonText) digits() bool {
	from := t.at
	for t.at < len(t.b) && '0' <= t.b[t.at] && t.b[t.at] <= '9' {
		t.at++
	}
	return t.at > from
}
