package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/bench/floor"
)

// service is what every load is for.
const service = "echo"

// Concurrency of the workers: more did not make either of them faster.
const (
	concurrency     = 128
	peerConcurrency = 64
)

// role is what a process of the lab does, so that its CPU time is its own.
func role(ctx context.Context, args []string) error {
	switch name, args := args[0], args[1:]; name {
	case "chi": // ADDR
		return floor.Chi(ctx, args[0])
	case "xadd": // ADDR of Redis, BODY
		size, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return floor.XADD(ctx, args[0], size)
	case "limit": // ADDR, REDIS, how bodies are read
		return floor.Limit(ctx, args[0], args[1], args[2] == readAll)
	case "limit-worker": // REDIS
		return floor.LimitWorker(ctx, args[0])
	case "worker": // REDIS, CONCURRENCY
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return echo(ctx, args[0], n)
	default:
		return fmt.Errorf("nothing is called %q", name)
	}
}

// How the limit reads bodies.
const (
	readAll = "readall"
	sized   = "sized"
)

// echo is the worker of the gateway.
func echo(ctx context.Context, redisURL string, concurrency int) error {
	w := worker.New(redisURL, worker.Concurrency(concurrency), worker.Logger(slog.New(slog.NewTextHandler(io.Discard, nil))))
	w.Handle(service, func(_ context.Context, r *worker.Request) (worker.Reply, error) {
		return worker.Reply{ContentType: r.ContentType, Body: r.Body}, nil
	})
	return w.Run(ctx)
}
