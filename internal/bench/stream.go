package bench

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http/httputil"
	"strconv"
)

// event is one server-sent event; data is good until the next one.
type event struct {
	name string
	id   int // 0 for none
	data []byte
}

// events reads a stream to its end and gives each of its events to see.
func (c *conn) events(a answer, see func(event)) error {
	var from io.Reader = c.in
	if a.chunked {
		from = httputil.NewChunkedReader(c.in)
	}
	if c.lines == nil {
		c.lines = bufio.NewReader(nil)
	}
	c.lines.Reset(from)
	err := readEvents(c.lines, see)
	if err == nil && a.chunked {
		err = c.trailer()
	}
	a.closes = a.closes || !a.chunked
	c.end(a, err)
	return err
}

// readEvents parses as much of the format (WHATWG HTML, section 9.2) as gateways
// write: lines that end with LF, each field after its name and ": ".
func readEvents(from *bufio.Reader, see func(event)) error {
	var e event
	var long []byte // a line that is longer than the buffer
	for {
		line, err := from.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			if long = append(long, line...); len(long) > maxAnswer {
				return errTooLong
			}
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(long) > 0 {
			long = append(long, line...)
			line = long
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		switch {
		case len(line) == 0:
			if e.name != "" {
				see(e)
			}
			e = event{data: e.data[:0]}
		case bytes.HasPrefix(line, []byte("event: ")):
			e.name = string(line[7:])
		case bytes.HasPrefix(line, []byte("id: ")):
			e.id, _ = strconv.Atoi(string(line[4:]))
		case bytes.HasPrefix(line, []byte("data: ")):
			e.data = append(e.data, line[6:]...)
		}
		long = long[:0]
	}
}
