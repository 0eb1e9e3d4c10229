package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
)

func count(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	if len(r.Body) == 0 {
		return worker.Reply{}, worker.Fail("empty", "There is nothing to count.")
	}
	lines := bytes.Split(r.Body, []byte("\n"))
	for i := range lines {
		if err := r.Progress(ctx, map[string]int{"percent": 100 * (i + 1) / len(lines)}); err != nil {
			return worker.Reply{}, err
		}
	}
	return worker.Reply{ContentType: "text/plain", Body: fmt.Append(nil, len(lines))}, nil
}

// A handler is a function, and is tested as one: no Redis is needed.
func ExampleHandler() {
	reply, err := count(context.Background(), &worker.Request{Body: []byte("a\nb\nc")})
	fmt.Println(string(reply.Body), err)

	_, err = count(context.Background(), &worker.Request{})
	fmt.Println(err)
	// Output:
	// 3 <nil>
	// empty: There is nothing to count.
}

// A worker is a process of its own, which drains when it is asked to end.
func ExampleWorker() {
	w := worker.New("redis://127.0.0.1:6379", worker.Concurrency(4), worker.Grace(5*time.Second))
	w.Handle("count", count, worker.Lease(time.Minute))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := w.Run(ctx); err != nil {
		slog.Error("worker", "error", err)
	}
}

// A backend that is busy is tried again later.
func ExampleRetry() {
	handler := func(context.Context, *worker.Request) (worker.Reply, error) {
		return worker.Reply{}, worker.Retry(errors.New("the backend is busy"), 30*time.Second)
	}
	_, err := handler(context.Background(), &worker.Request{})
	fmt.Println(err)
	// Output: try again: the backend is busy
}

// Middleware stands around every handler.
func ExampleWorker_Use() {
	timed := func(next worker.Handler) worker.Handler {
		return func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
			begun := time.Now()
			reply, err := next(ctx, r)
			slog.Info("handled", "service", r.Service, "took", time.Since(begun), "error", err)
			return reply, err
		}
	}
	w := worker.New("redis://127.0.0.1:6379")
	w.Use(timed)
	w.Handle("count", count)
}
