// Package sse writes streams of server-sent events, and lets those rest at which
// nothing happens.
//
//	s := sse.Open(w, http.StatusOK)      // the head
//	err := s.Send("status", "", document) // kept until
//	err = s.Flush()                      // it is written
//
//	p := idle.Park(s, r, follower, first) // the handler may return
//	notify(p.Wake)                        // to have the follower look
//	p.Begin()
//
// An idle stream is a connection taken from net/http, a few hundred bytes about it,
// and a goroutine that waits for the client to hang up. It is given back at the end
// of the stream, so that the client can use it on.
//
// Pitfalls: nothing is written before Flush or End. What is parked belongs to Idle:
// the handler must touch neither its writer nor its request any more. net/http does
// not know of parked streams, so who shuts a server down must Wait for them as well.
package sse

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"
)

const (
	writeTimeout = 10 * time.Second // a reader that is slower is dropped, and resumes
	mostPending  = 32 << 10         // bytes of events that are written together
	frameRoom    = 64               // bytes of a frame beside its data, nearly always
)

// Stream writes server-sent events (WHATWG HTML, section 9.2): to the response that
// it began as, or to the bare connection once it is idle. It belongs to one goroutine
// at a time.
type Stream struct {
	w       http.ResponseWriter // nil once it is idle
	conn    net.Conn            // nil until then
	pending []byte              // events that Flush writes
	written int                 // bytes of events
	broken  bool                // a write failed, or nobody is there to read
}

// Values of headers that each stream has, made once: nobody writes into them.
var (
	eventStream = []string{"text/event-stream"}
	noStore     = []string{"no-store"}
	unbuffered  = []string{"no"} // nginx would hold events back
	noSniff     = []string{"nosniff"}
)

// Open answers with the head of a stream. It goes out with the first Flush.
func Open(w http.ResponseWriter, status int) *Stream {
	h := w.Header()
	h["Content-Type"], h["Cache-Control"], h["X-Accel-Buffering"], h["X-Content-Type-Options"] = eventStream, noStore, unbuffered, noSniff
	w.WriteHeader(status)
	return &Stream{w: w, pending: appendRetry(nil)}
}

// Send adds an event; id "" means none.
func (s *Stream) Send(event, id string, data []byte) error {
	s.pending = AppendFrame(slices.Grow(s.pending, len(data)+frameRoom), event, id, data)
	return s.full()
}

// Add adds what AppendFrame made. It does not keep the bytes.
func (s *Stream) Add(frames []byte) error {
	s.pending = append(s.pending, frames...)
	return s.full()
}

// full flushes where enough came together.
func (s *Stream) full() error {
	if len(s.pending) < mostPending {
		return nil
	}
	return s.Flush()
}

// Heartbeat shows that the stream is alive.
func (s *Stream) Heartbeat() error {
	s.pending = append(s.pending, heartbeat...)
	return s.Flush()
}

// Written is how many bytes of events have been written.
func (s *Stream) Written() int { return s.written }

// Flush writes what was added. A reader has limited time: one that is slower is
// dropped and resumes by Last-Event-ID, so nothing more is kept for it here. The
// deadline is taken back, since the connection may serve other calls after the
// stream.
func (s *Stream) Flush() error {
	if len(s.pending) == 0 {
		return nil
	}
	if s.conn != nil {
		return s.writeConn(appendChunk(make([]byte, 0, len(s.pending)+chunkHead), s.pending))
	}
	control := http.NewResponseController(s.w)
	_ = control.SetWriteDeadline(time.Now().Add(writeTimeout)) // a test's recorder has none
	if err := s.write(); err != nil {
		return err
	}
	if err := s.failed(control.Flush()); err != nil {
		return err
	}
	_ = control.SetWriteDeadline(time.Time{})
	return nil
}

// End writes what was added, together with the end of the answer.
func (s *Stream) End() error {
	if s.conn != nil {
		var b []byte
		if len(s.pending) > 0 {
			b = appendChunk(make([]byte, 0, len(s.pending)+chunkHead), s.pending)
		}
		return s.writeConn(append(b, lastChunk...))
	}
	// net/http flushes once the handler returned, and takes the deadline back.
	_ = http.NewResponseController(s.w).SetWriteDeadline(time.Now().Add(writeTimeout))
	return s.write()
}

func (s *Stream) write() error {
	_, err := s.w.Write(s.pending)
	s.written, s.pending = s.written+len(s.pending), s.pending[:0]
	return s.failed(err)
}

const chunkHead = 24 // room for the bytes around a chunk, and for the last one

// writeConn keeps no buffer: most idle streams are so for long.
func (s *Stream) writeConn(b []byte) error {
	s.written, s.pending = s.written+len(s.pending), nil
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := s.conn.Write(b); err != nil {
		return s.failed(err)
	}
	_ = s.conn.SetWriteDeadline(time.Time{})
	return nil
}

func (s *Stream) failed(err error) error {
	if err == nil {
		return nil
	}
	s.broken = true
	return fmt.Errorf("write to the stream: %w", err)
}
