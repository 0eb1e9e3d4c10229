// Package localredis runs the redis-server that it finds on PATH: the durable
// one-machine mode of `coatcheck serve`. It listens on a unix socket in the data
// directory, so nothing but this user's processes reaches it.
//
//	r, err := localredis.Start(ctx, "data", false, logger) // returned: it answers
//	defer r.Stop()
//	… r.URL …
//
// Two locks in the data directory say who is there; the kernel lets go of them
// however a process ends, so neither is ever stale:
//
//   - redis.lock is inherited by the redis-server and held for as long as it
//     lives. Whoever gets it knows that there is none, and may start one: never
//     do two servers write one append-only file.
//   - gateways.lock is shared by all gateways on the directory. The last one to
//     stop stops the server.
//
// A gateway that was killed leaves its redis-server running, and the next one
// on the same directory goes on with it. A redis-server that was killed is
// started again by a gateway that is there.
package localredis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

const (
	startTimeout = 20 * time.Second // without an answer; loading a large append-only file is one
	stopTimeout  = 2 * time.Second  // within the time that a gateway has to exit; the server finishes by itself
	probeEvery   = 20 * time.Millisecond
	socketLimit  = 100 // bytes of a unix socket's path; the kernel takes 107
)

// ErrMissing says that there is no redis-server on PATH.
var ErrMissing = errors.New("no redis-server on PATH: install Redis 7 or newer (Debian: apt-get install redis-server), or name one with --redis-url")

// Redis is a running redis-server.
type Redis struct {
	URL string

	dir, socket string
	always      bool // sync every write
	log         *slog.Logger
	gateways    *os.File      // shared lock, held until Stop
	stop        chan struct{} // closed by Stop
	done        chan struct{} // closed when the server is watched no more
}

// Start starts a redis-server with an append-only file in dir, or goes on with
// the one that runs there. It returns once the server answers. The file is synced
// with every write, or once a second unless another gateway wants always.
func Start(ctx context.Context, dir string, always bool, log *slog.Logger) (*Redis, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	socket := filepath.Join(dir, "redis.sock")
	if len(socket) > socketLimit {
		return nil, fmt.Errorf("data directory %s: its path is too long for a unix socket (%d bytes, at most %d)", dir, len(socket), socketLimit)
	}
	r := &Redis{
		URL: "unix://" + socket, dir: dir, socket: socket, always: always, log: log,
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	if r.gateways, err = r.join(ctx); err != nil {
		return nil, err
	}
	started, err := r.ensure(ctx)
	if err != nil {
		close(r.done)
		r.Stop()
		return nil, err
	}
	if !started {
		log.Info("going on with the redis-server that runs already", "dir", dir)
	}
	go r.watch()
	return r, nil
}

// join takes a share of gateways.lock, waiting for one that is just stopping.
func (r *Redis) join(ctx context.Context) (*os.File, error) {
	ctx, stop := context.WithTimeout(ctx, 2*stopTimeout)
	defer stop()
	for {
		f, err := lock(filepath.Join(r.dir, "gateways.lock"), shared)
		if err == nil || !errors.Is(err, errTaken) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("data directory %s: another gateway has been stopping for too long", r.dir)
		case <-time.After(probeEvery):
		}
	}
}

// Stop ends the server, which writes what it has first, unless another gateway
// uses it.
func (r *Redis) Stop() {
	select {
	case <-r.done:
	default:
		close(r.stop)
		<-r.done
	}
	defer r.gateways.Close()
	if relock(r.gateways, exclusive) != nil {
		r.log.Info("another gateway uses the redis-server; leaving it running", "dir", r.dir)
		return
	}
	if err := shutdown(r.socket); err != nil {
		r.log.Warn("redis-server does not want to stop; leaving it running", "dir", r.dir, "error", err)
		return
	}
	for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(probeEvery) {
		if f, err := r.lockServer(); err == nil {
			f.Close()
			return
		}
	}
	r.log.Warn("redis-server takes its time to stop; leaving it to finish", "dir", r.dir)
}
