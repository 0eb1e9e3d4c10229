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

// A client that lost its stream comes back within these, each a little
// differently, so that a crowd that lost its gateway does not return as one.
const (
	leastRetry  = 1000 // ms
	retryJitter = 2000 // ms
)

// stream writes server-sent events (WHATWG HTML, section 9.2).
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func openStream(w http.ResponseWriter, status int) *stream {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	return &stream{w, http.NewResponseController(w)}
}

// retry tells the client when to come back.
func (s *stream) retry() error {
	return s.write(fmt.Appendf(nil, "retry: %d\n\n", leastRetry+rand.IntN(retryJitter)))
}

func (s *stream) heartbeat() error { return s.write([]byte(": heartbeat\n\n")) }

// send writes one event; id 0 means none.
func (s *stream) send(event string, id int, v any) error {
	text := ""
	if id > 0 {
		text = strconv.Itoa(id)
	}
	return s.sendAs(event, text, v)
}

// sendAs writes one event; id "" means none.
func (s *stream) sendAs(event, id string, v any) error {
	data, err := broker.EncodeJSON(v)
	if err != nil {
		return fmt.Errorf("encode the event %s: %w", event, err)
	}
	return s.write(frame(event, id, data))
}

// frame is newline-safe: each line of the data gets a field of its own. Readers
// join them by LF, whatever the line ends were.
func frame(event, id string, data []byte) []byte {
	var b bytes.Buffer
	b.Grow(len(event) + len(data) + 48)
	b.WriteString("event: " + event + "\n")
	if id != "" {
		b.WriteString("id: " + id + "\n")
	}
	if bytes.IndexByte(data, '\r') >= 0 {
		data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
		data = bytes.ReplaceAll(data, []byte("\r"), []byte("\n"))
	}
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		b.WriteString("data: ")
		b.Write(line)
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// write gives a reader limited time: one that is slower is dropped and resumes
// by Last-Event-ID, so nothing is buffered for it here. The deadline is taken
// back, since the connection may serve other calls after the stream.
func (s *stream) write(p []byte) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout)) // a test's recorder has none
	if _, err := s.w.Write(p); err != nil {
		return fmt.Errorf("write to the stream: %w", err)
	}
	if err := s.control.Flush(); err != nil {
		return fmt.Errorf("write to the stream: %w", err)
	}
	_ = s.control.SetWriteDeadline(time.Time{})
	return nil
}
