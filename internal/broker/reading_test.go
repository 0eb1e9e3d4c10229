package broker

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"testing"
)

// read gives an answer to deliveries as the library does.
func read(r *deliveries, answer []byte) error {
	from := bytes.NewReader(answer)
	for from.Len() > 0 {
		at := len(answer) - from.Len()
		end := bytes.Index(answer[at:], []byte("\r\n"))
		if end < 1 {
			return io.ErrUnexpectedEOF
		}
		line := bytes.Clone(answer[at : at+end])
		_, _ = from.Seek(int64(end+2), io.SeekCurrent)
		if _, err := r.Write(line); err != nil {
			return err
		}
		if _, err := r.Write([]byte("\r\n")); err != nil {
			return err
		}
		if n, err := strconv.Atoi(string(line[1:])); line[0] == '$' && err == nil && n >= 0 && n <= len(answer) {
			if copied, err := io.CopyN(r, from, int64(n)+2); err != nil || copied != int64(n)+2 {
				return io.ErrUnexpectedEOF
			}
		}
	}
	return nil
}

// Whatever comes in place of an answer, it is refused or read, and no more is found than
// was said.
func FuzzDeliveries(f *testing.F) {
	f.Add([]byte("*1\r\n*2\r\n$1\r\nq\r\n*2\r\n*2\r\n$3\r\n1-1\r\n*4\r\n$2\r\nid\r\n$1\r\na\r\n$4\r\nbody\r\n$2\r\n\r\n\r\n*2\r\n$3\r\n1-2\r\n*-1\r\n"))
	f.Add([]byte("*-1\r\n"))
	f.Add([]byte("-NOGROUP no such key\r\n"))
	f.Add([]byte("*1\r\n*2\r\n$1\r\nq\r\n*-1\r\n"))
	f.Add([]byte("*1\r\n*2\r\n$1\r\nq\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$-1\r\n:1\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		r := &deliveries{}
		if err := read(r, answer); err != nil {
			return
		}
		if r.said != "" && len(r.found) > 0 {
			t.Errorf("%d found, and %q", len(r.found), r.said)
		}
		for _, d := range r.found {
			if len(d.Body) > len(answer) {
				t.Errorf("a body of %d bytes in an answer of %d", len(d.Body), len(answer))
			}
		}
	})
}

// Where there has to be a string there is one: none at all, a number or a list is an
// error, as is an odd number of names and values, and an answer that ends too early. A
// list may be none where Redis has nothing to say.
func TestOddDeliveries(t *testing.T) {
	const whole = "*1\r\n*2\r\n$1\r\nq\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*4\r\n$2\r\nid\r\n$1\r\na\r\n$4\r\nbody\r\n$0\r\n\r\n"
	odd := func(answer string) bool {
		r := &deliveries{}
		return errors.Is(errors.Join(read(r, []byte(answer)), r.end()), errOddAnswer)
	}
	if odd(whole) || odd("*-1\r\n") || odd("*0\r\n") || odd("*1\r\n*2\r\n$1\r\nq\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*-1\r\n") {
		t.Error("an answer of Redis is refused")
	}
	text := regexp.MustCompile(`\$\d+\r\n\w*\r\n`)
	for i, at := range text.FindAllStringIndex(whole, -1) {
		for _, other := range []string{"$-1\r\n", "*-1\r\n", "*0\r\n", "*2\r\n", ":1\r\n", "+OK\r\n", "-ERR no\r\n", "_\r\n", "$-2\r\n"} {
			if answer := whole[:at[0]] + other + whole[at[1]:]; !odd(answer) {
				t.Errorf("%q is taken for the string %d", other, i)
			}
		}
		if i > 0 && !odd(whole[:at[0]]) {
			t.Errorf("it may end before the string %d", i)
		}
	}
	for _, list := range regexp.MustCompile(`\*\d\r\n`).FindAllStringIndex(whole, -1) {
		for _, other := range []string{"$-1\r\n", "*3\r\n", ":1\r\n", "_\r\n"} {
			if answer := whole[:list[0]] + other + whole[list[1]:]; !odd(answer) {
				t.Errorf("%q is taken for a list in %q", other, answer)
			}
		}
	}
}
