package httpapi

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// stream writes server-sent events (WHATWG HTML, section 9.2).
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func openStream(w http.ResponseWriter) *stream {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	return &stream{w, http.NewResponseController(w)}
}

// retry tells the client when to come back, each a little differently, so that
// a crowd that lost its gateway does not return as one.
func (s *stream) retry() error {
	return s.write(fmt.Appendf(nil, "retry: %d\n\n", 1000+rand.IntN(2000)))
}

func (s *stream) heartbeat() error { return s.write([]byte(": heartbeat\n\n")) }

// send writes one event; id 0 means none.
func (s *stream) send(event string, id int, v any) error {
	data, err := broker.EncodeJSON(v)
	if err != nil {
		return err
	}
	return s.write(frame(event, id, data))
}

// frame is newline-safe: data may hold any bytes, each line gets its own field.
func frame(event string, id int, data []byte) []byte {
	var b bytes.Buffer
	b.WriteString("event: " + event + "\n")
	if id > 0 {
		b.WriteString("id: " + strconv.Itoa(id) + "\n")
	}
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	data = bytes.ReplaceAll(data, []byte("\r"), []byte("\n"))
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		b.WriteString("data: ")
		b.Write(line)
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// write gives a reader limited time: one that is slower is dropped and resumes
// by Last-Event-ID, so nothing is buffered for it here.
func (s *stream) write(p []byte) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout)) // a test's recorder has none
	if _, err := s.w.Write(p); err != nil {
		return err
	}
	return s.control.Flush()
}
