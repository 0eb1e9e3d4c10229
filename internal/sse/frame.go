package sse

import (
	"bytes"
	"math/rand/v2"
	"strconv"
)

// A client that lost its stream comes back within these, each a little
// differently, so that a crowd that lost its gateway does not return as one.
const (
	leastRetry  = 1000 // ms
	retryJitter = 2000 // ms
)

const heartbeat = ": heartbeat\n\n"

// appendRetry tells the client when to come back.
func appendRetry(b []byte) []byte {
	b = append(b, "retry: "...)
	b = strconv.AppendInt(b, int64(leastRetry+rand.IntN(retryJitter)), 10)
	return append(b, "\n\n"...)
}

// AppendFrame appends one event; id "" means none. It is newline-safe: each line of
// the data gets a field of its own. Readers join them by LF, whatever the line ends
// were.
func AppendFrame(b []byte, event, id string, data []byte) []byte {
	b = append(append(append(b, "event: "...), event...), '\n')
	if id != "" {
		b = append(append(append(b, "id: "...), id...), '\n')
	}
	if bytes.IndexByte(data, '\r') >= 0 {
		data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
		data = bytes.ReplaceAll(data, []byte("\r"), []byte("\n"))
	}
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		b = append(append(append(b, "data: "...), line...), '\n')
	}
	return append(b, '\n')
}

// A chunk of HTTP/1.1 (RFC 9112, section 7.1), and what ends a body of them.
func appendChunk(b, data []byte) []byte {
	b = append(strconv.AppendInt(b, int64(len(data)), 16), "\r\n"...)
	return append(append(b, data...), "\r\n"...)
}

const lastChunk = "0\r\n\r\n"
