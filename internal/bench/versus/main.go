// Command versus measures the gateway against what is possible, and against what
// one would write by hand: `make bench`.
//
// It starts a redis-server, a gateway and a worker of its own for each
// measurement, measures the gateway and its floors (internal/bench/floor) and peer
// (internal/bench/peer) in turn, several rounds of it, and compares within each
// round: what else the machine does then weighs on both sides of a ratio. The
// result is a table of figures, and one of bounds with ✓ and ✗.
//
//	go run ./internal/bench/versus                            # all rows
//	go run ./internal/bench/versus -rows submit,sse -rounds 1
//
// Everything is in one directory that goes with it, and every process it started
// ends with it. It needs redis-server on PATH, /proc, and the go command to build
// the gateway and the peer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// row is one measurement, with one or more lines of the table.
type row struct {
	name, what string
	measure    func(*lab, context.Context) error
}

// rows in the order in which they are measured.
var rows = []row{
	{"submit", "submits a second, and their CPU time", (*lab).submitRow},
	{"commands", "commands sent to Redis", (*lab).commandsRow},
	{"memory", "Redis memory of a request", (*lab).memoryRow},
	{"body64k", "bodies of 64 KiB", (*lab).largeRow},
	{"drain", "a backlog drained by one worker process", (*lab).drainRow},
	{"wait", "replies by long-poll", (*lab).waitRow},
	{"sse", "replies by server-sent events", (*lab).sseRow},
	{"webhook", "callbacks", (*lab).webhookRow},
	{"latency", "how long a reply takes at a fixed rate", (*lab).latencyRow},
	{"streams", "10,000 open streams", (*lab).streamsRow},
	{"idle", "a gateway with nothing to do", (*lab).idleRow},
	{"poll", "5,000 clients polling 50 requests", (*lab).pollRow},
	{"aof", "an append-only file", (*lab).aofRow},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)                 // a second signal ends the process at once
	if len(os.Args) > 1 && os.Args[1] == "run" { // one of the processes that are measured
		if err := role(ctx, os.Args[2:]); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "versus:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "versus:", err)
		os.Exit(1)
	}
}

// errMissed says that the table has a ✗.
var errMissed = errors.New("a bound is not met")

func run(ctx context.Context) error {
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = r.name
	}
	chosen := flag.String("rows", strings.Join(names, ","), "which rows, separated by commas")
	rounds := flag.Int("rounds", 3, "how often everything is measured; medians are shown")
	duration := flag.Duration("duration", 4*time.Second, "of one measurement")
	clients := flag.Int("clients", 64, "connections of a load")
	profiles := flag.String("profiles", "", "directory for CPU profiles of the gateway, which cost it a few percent; empty for none")
	flag.Parse()
	var want []row
	for name := range strings.SplitSeq(*chosen, ",") {
		at := slices.Index(names, name)
		if at < 0 {
			return fmt.Errorf("no row %q; there are %s", name, strings.Join(names, ", "))
		}
		want = append(want, rows[at])
	}
	if *rounds < 1 || *duration <= 0 || *clients < 1 || flag.NArg() > 0 {
		return errors.New("rounds, duration and clients must be above 0, and nothing may follow the flags")
	}
	if *profiles != "" {
		if err := os.MkdirAll(*profiles, 0o755); err != nil {
			return err
		}
	}
	l, err := newLab(ctx, *rounds, *duration, *clients)
	if err != nil {
		return err
	}
	defer l.close()
	l.profiles = *profiles
	began := time.Now()
	for _, r := range want {
		l.say("%s", r.what)
		if err := r.measure(l, ctx); err != nil {
			l.print(os.Stdout, time.Since(began)) // what there is
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	l.print(os.Stdout, time.Since(began))
	if l.missed() {
		return errMissed
	}
	return nil
}
