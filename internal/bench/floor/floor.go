// Package floor has what the gateway is measured against: servers that do as
// little as can be done, so that one sees what is paid for the rest.
//
//	floor.Chi(ctx, addr)            // reads the body and answers 202; no Redis
//	floor.XADD(ctx, redis, bodies)  // as many XADDs as Redis takes
//	floor.Limit(ctx, …)             // a gateway stripped to what moves the bytes
//	floor.LimitWorker(ctx, …)       // and its worker
//
// The limit speaks as much of the gateway's contract as internal/bench needs: a
// submit is one XADD, shared with whoever submits at the same time; a batch worker
// answers on a reply stream; the gateway reads that stream and wakes who waits
// from memory. It keeps no record, knows no deadlines, and what it holds goes with
// it. So it is no gateway that anybody could use.
//
// Each runs in a process of its own, so that its CPU time can be read.
package floor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"
)

const (
	batch    = 128       // commands of a pipeline, entries of a read
	flushers = 2         // the next pipeline fills while one is under way
	pool     = 8         // connections
	maxBytes = 256 << 10 // of a pipeline
)

// Chi answers submits until ctx ends.
func Chi(ctx context.Context, addr string) error {
	r := chi.NewRouter()
	var ids counter
	r.Post("/v1/services/{service}/requests", func(w http.ResponseWriter, r *http.Request) {
		if _, err := sized(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		accepted(w, ids.next())
	})
	return serve(ctx, addr, r)
}

// sized reads a body into a buffer of its length.
func sized(r *http.Request) ([]byte, error) {
	if r.ContentLength < 0 {
		return io.ReadAll(r.Body)
	}
	body := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, body)
	return body, err
}

// accepted is the 202.
func accepted(w http.ResponseWriter, id string) {
	h := w.Header()
	h.Set("Location", "/v1/requests/"+id)
	h.Set("X-Correlation-ID", id)
	document := `{"correlation_id":"` + id + `","status":"queued","attempt":1}`
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(document)))
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, document)
}

// serve serves until ctx ends.
func serve(ctx context.Context, addr string, h http.Handler) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s := &http.Server{Handler: h, BaseContext: func(net.Listener) context.Context { return ctx }}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}
