package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/hibiken/asynq"
)

const (
	maxBody   = 10 << 20
	taskTime  = 5 * time.Minute
	retention = 24 * time.Hour
	retries   = 2

	lookEvery = 10 * time.Millisecond // asynq tells nobody when a task is done, so who waits asks
	heartbeat = 15 * time.Second
	longest   = 60 * time.Second
)

// server answers clients.
type server struct {
	tasks     *asynq.Client
	inspector *asynq.Inspector
}

func gateway(ctx context.Context, addr string, redis asynq.RedisConnOpt, secret string) error {
	s := &server{tasks: asynq.NewClient(redis), inspector: asynq.NewInspector(redis)}
	callbacks, err := deliver(redis, secret)
	if err != nil {
		return err
	}
	defer callbacks.Shutdown()
	r := chi.NewRouter()
	r.Post("/v1/services/{service}/requests", s.submit)
	r.Get("/v1/requests/{id}", s.status)
	r.Get("/v1/requests/{id}/events", s.events)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	h := &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	defer context.AfterFunc(ctx, func() { h.Close() })()
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// submit makes a task of the request.
func (s *server) submit(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	headers := map[string]string{"content-type": r.Header.Get("Content-Type")}
	if url := r.Header.Get("Coatcheck-Callback-Url"); url != "" {
		headers["callback"] = url
	}
	id := uuid.NewString()
	task := asynq.NewTaskWithHeaders(echoTask, body, headers)
	_, err = s.tasks.EnqueueContext(r.Context(), task, asynq.Queue(echoQueue), asynq.TaskID(id),
		asynq.MaxRetry(retries), asynq.Timeout(taskTime), asynq.Retention(retention))
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Location", "/v1/requests/"+id)
	w.Header().Set("X-Correlation-ID", id)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(document(id, "queued", nil))
}

// look is the status document of a request, and whether it is over.
func (s *server) look(id string) (status []byte, over bool, err error) {
	info, err := s.inspector.GetTaskInfo(echoQueue, id)
	if err != nil {
		return nil, false, err
	}
	switch info.State {
	case asynq.TaskStateCompleted:
		return document(id, "succeeded", info.Result), true, nil
	case asynq.TaskStateArchived:
		return document(id, "failed", nil), true, nil
	case asynq.TaskStateActive:
		return document(id, "running", nil), false, nil
	default:
		return document(id, "queued", nil), false, nil
	}
}

// await looks until the request is over, or there is something else to do.
func (s *server) await(ctx context.Context, id string, beat func() error) ([]byte, error) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	pulse := time.NewTicker(heartbeat)
	defer pulse.Stop()
	for {
		status, over, err := s.look(id)
		if over || err != nil {
			return status, err
		}
		select {
		case <-look.C:
		case <-pulse.C:
			if err := beat(); err != nil {
				return status, err
			}
		case <-ctx.Done():
			return status, nil
		}
	}
}

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	id := chi.URLParam(r, "id")
	var status []byte
	var err error
	if r.URL.Query().Has("wait") {
		ctx, stop := context.WithTimeout(r.Context(), longest)
		defer stop()
		status, err = s.await(ctx, id, func() error { return nil })
	} else {
		status, _, err = s.look(id)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(status)
}

func (s *server) events(w http.ResponseWriter, r *http.Request) {
	id := chi.URLParam(r, "id")
	status, _, err := s.look(id)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	_, _ = fmt.Fprintf(w, "event: status\ndata: %s\n\n", status)
	_ = out.Flush()
	status, err = s.await(r.Context(), id, func() error {
		_, _ = io.WriteString(w, ": heartbeat\n\n")
		return out.Flush()
	})
	if err == nil && r.Context().Err() == nil {
		_, _ = fmt.Fprintf(w, "event: outcome\nid: 1\ndata: %s\n\n", status)
	}
}

func document(id, status string, reply []byte) []byte {
	text := `{"correlation_id":"` + id + `","status":"` + status + `","attempt":1`
	if reply == nil {
		return []byte(text + "}")
	}
	b := append([]byte(text), `,"reply":{"encoding":"json","body":`...)
	return append(append(b, reply...), "}}"...)
}
