// Command go is a worker in Go: go run ./api/worker/examples/go SERVICE, with the
// Redis of the gateways in REDIS_URL. Its handler does what a conformance run
// asks for; put your own work in its place.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	w := worker.New(cmp.Or(os.Getenv("REDIS_URL"), "redis://127.0.0.1:6379"), worker.Concurrency(4))
	w.Handle(os.Args[1], handle)
	if err := w.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

func handle(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	if !bytes.HasPrefix(r.Body, []byte(`{"do":`)) {
		return worker.Reply{ContentType: r.ContentType, Body: r.Body}, nil
	}
	var ask struct {
		Do, Reason string
		MS         int
	}
	err := json.Unmarshal(r.Body, &ask)
	for step := 1; step <= 3 && ask.Do == "progress" && err == nil; step++ {
		err = r.Progress(ctx, map[string]int{"step": step})
	}
	for _, part := range []string{"one", "two", "three"} {
		if ask.Do == "partial" && err == nil {
			err = r.Partial(ctx, "text/plain", []byte(part))
		}
	}
	switch {
	case ask.Do == "fail":
		err = errors.New(ask.Reason)
	case ask.Do == "retry" && r.Attempt == 1:
		err = worker.Retry(errors.New("not now"), time.Millisecond)
	case ask.Do == "sleep":
		select {
		case <-time.After(time.Duration(ask.MS) * time.Millisecond):
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	return worker.Reply{ContentType: "text/plain", Body: fmt.Appendf(nil, "attempt %d", r.Attempt)}, err
}
