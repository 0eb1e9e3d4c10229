package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	bodyChunk     = 64 << 10    // first buffer of a body; most fit
	inflightPause = time.Second // how long a call waits for memory before it is refused

	// What a refused call still sends is read and thrown away, within these: many
	// clients read no answer before they have sent everything, and to close on
	// them makes a reset of what should be a problem document.
	lingerIdle  = time.Second // and bodyTimeout since the call began
	lingerBytes = 64 << 20
)

// memory is one call's share of what all bodies together may hold. With the
// copies on their way to Redis and what the garbage collector leaves, the process
// takes about two and a half times as much: 650 MiB at the default of 256 MiB,
// measured with 300 bodies of 10 MiB at once.
type memory struct {
	server *Server
	held   int64
}

// grow takes n bytes more, waiting a moment for others to give theirs back.
func (m *memory) grow(ctx context.Context, n int64) error {
	if m.server.inflight.TryAcquire(n) {
		m.held += n
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, inflightPause)
	defer stop()
	if err := m.server.inflight.Acquire(ctx, n); err != nil {
		return failure{
			slug: "memory-full", cause: fmt.Errorf("wait for %d bytes for a body: %w", n, err),
			detail: "The gateway holds as many bodies in memory as it may. This call had no effect; try again after Retry-After.",
		}
	}
	m.held += n
	return nil
}

// release gives all of it back. It may be called again.
func (m *memory) release() {
	m.server.inflight.Release(m.held)
	m.held = 0
}

// paced gives every body its time, also one that nobody reads: before net/http
// sends the answer it reads on for what is left of the body, and would wait for
// as long as the client likes.
func (s *Server) paced(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		end := time.Now().Add(bodyTimeout)
		_ = http.NewResponseController(w).SetReadDeadline(end) // a test's recorder has none
		next.ServeHTTP(w, r)
		if callOf(r).failure.slug != "" && r.Header.Get("Expect") == "" { // who asks first has not begun to send
			linger(w, r, end)
		}
	})
}

// linger sends the answer of a refused call off, and then takes in what is left
// of its body, until end at the latest.
func linger(w http.ResponseWriter, r *http.Request, end time.Time) {
	control := http.NewResponseController(w)
	if control.Flush() != nil {
		return
	}
	chunk := make([]byte, bodyChunk)
	for left := lingerBytes; left > 0; {
		idle := time.Now().Add(lingerIdle)
		if !idle.Before(end) {
			return
		}
		_ = control.SetReadDeadline(idle)
		n, err := r.Body.Read(chunk)
		if err != nil { // at its end, where the body was read before
			return
		}
		left -= n
	}
}

// body reads a request body. The caller releases the memory once the body is no
// longer needed. net/http takes the deadline of paced back when the body is
// there; it stays where the rest may still come.
func (s *Server) body(w http.ResponseWriter, r *http.Request, m *memory) ([]byte, error) {
	if r.ContentLength > s.MaxBody {
		return nil, s.tooLarge()
	}
	from := r.Body
	if r.ContentLength < 0 { // else net/http lets no more than that through
		from = http.MaxBytesReader(w, from, s.MaxBody)
	}
	body, err := readBody(r.Context(), from, r.ContentLength, m)
	if err == nil {
		return body, nil
	}
	var (
		large    *http.MaxBytesError
		declined failure
	)
	switch {
	case errors.As(err, &declined):
		return nil, declined
	case errors.As(err, &large):
		return nil, s.tooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close") // the rest of the body may still come
		return nil, failure{slug: "body-timeout", cause: err}
	default:
		w.Header().Set("Connection", "close")
		return nil, failure{
			slug: "invalid-request", cause: err,
			detail: "The body ended before it was complete, or can't be read. Nothing was accepted; send it again.",
		}
	}
}

// readBody takes memory as the body comes, twice as much each time: to announce
// a large body costs a client nothing, to send it does.
func readBody(ctx context.Context, from io.Reader, length int64, m *memory) ([]byte, error) {
	most := int(length)
	if length < 0 {
		most = int(m.server.MaxBody) + bodyChunk // room to see that it is too large, or at its end
	}
	var body []byte
	for length < 0 || len(body) < most {
		if len(body) == cap(body) {
			more := min(max(bodyChunk, cap(body)), most-cap(body))
			if err := m.grow(ctx, int64(more)); err != nil {
				return nil, err
			}
			body = append(make([]byte, 0, cap(body)+more), body...)
		}
		n, err := from.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return body, nil
}

func (s *Server) tooLarge() failure {
	return fail("body-too-large", "The body is larger than the %d bytes that this gateway takes. Nothing was accepted; send less, or a link to it.", s.MaxBody)
}
