// Command peer is an async-request gateway as one writes it by hand today: chi in
// front, a task queue (asynq) behind, a worker that gives back what it gets. It is
// what coatcheck is compared with, and has a module of its own so that its
// dependencies stay out of the product's.
//
//	peer gateway ADDR REDIS SECRET
//	peer worker  REDIS CONCURRENCY
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/hibiken/asynq"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 4 && args[0] == "gateway":
		redis, err := asynq.ParseRedisURI(args[2])
		if err != nil {
			return err
		}
		return gateway(ctx, args[1], redis, args[3])
	case len(args) == 3 && args[0] == "worker":
		redis, err := asynq.ParseRedisURI(args[1])
		if err != nil {
			return err
		}
		concurrency, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return worker(ctx, redis, concurrency)
	}
	return fmt.Errorf("usage: peer gateway ADDR REDIS SECRET, or peer worker REDIS CONCURRENCY")
}
