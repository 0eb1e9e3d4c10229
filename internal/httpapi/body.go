package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	bodyChunk     = 64 << 10 // first buffer of a body that doesn't say how long it is
	inflightPause = time.Second
)

// body reads a request body into one allocation where its length is known.
// The memory of all bodies together is bounded: release gives it back.
func (s *Server) body(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	if r.ContentLength > s.MaxBody {
		return nil, nil, s.tooLarge()
	}
	size := r.ContentLength
	if size < 0 {
		size = s.MaxBody // chunked: it may become as long as that
	}
	ctx, stop := context.WithTimeout(r.Context(), inflightPause)
	defer stop()
	if err := s.inflight.Acquire(ctx, size); err != nil {
		return nil, nil, failure{slug: "memory-full", cause: err, retryAfter: 1}
	}
	release = func() { s.inflight.Release(size) }
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout)) // a test's recorder has none
	body, err = readBody(http.MaxBytesReader(w, r.Body, s.MaxBody), r.ContentLength)
	_ = control.SetReadDeadline(time.Time{})
	if err == nil {
		return body, release, nil
	}
	release()
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, nil, s.tooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close")
		return nil, nil, failure{slug: "body-timeout"}
	default:
		return nil, nil, failure{slug: "invalid-request", detail: "The body ended before it was complete. Nothing was accepted; send it again.", cause: err}
	}
}

func readBody(from io.Reader, length int64) ([]byte, error) {
	if length >= 0 {
		body := make([]byte, length)
		_, err := io.ReadFull(from, body)
		return body, err
	}
	buffer := bytes.NewBuffer(make([]byte, 0, bodyChunk))
	_, err := buffer.ReadFrom(from)
	return buffer.Bytes(), err
}

func (s *Server) tooLarge() failure {
	return fail("body-too-large", "The body is larger than the %d bytes that this gateway takes. Nothing was accepted; send less, or a link to it.", s.MaxBody)
}
