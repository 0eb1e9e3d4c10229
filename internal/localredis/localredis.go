// Package localredis starts the redis-server that it finds on PATH: the durable
// one-machine mode of `coatcheck serve`. It listens on a unix socket in the data
// directory, so nothing but this user's processes reaches it.
//
//	r, err := localredis.Start(ctx, "data", logger)
//	defer r.Stop()
//	… r.URL …
//
// A gateway that was killed leaves its redis-server running; the next one on
// the same directory finds it by its socket and goes on with it.
package localredis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second // a large append-only file takes its time to load
	stopTimeout  = 10 * time.Second
	probeEvery   = 20 * time.Millisecond
	socketLimit  = 100 // bytes of a unix socket's path; the kernel takes 107
)

// ErrMissing says that there is no redis-server on PATH.
var ErrMissing = errors.New("no redis-server on PATH: install Redis 7 or newer (Debian: apt-get install redis-server), or name one with --redis-url")

// Redis is a running redis-server.
type Redis struct {
	URL string
	pid int
	log *slog.Logger
}

// Start starts a redis-server with an append-only file in dir, or finds the one
// that runs there. It returns once the server answers.
func Start(ctx context.Context, dir string, log *slog.Logger) (*Redis, error) {
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
	r := &Redis{URL: "unix://" + socket, log: log}
	pidFile := filepath.Join(dir, "redis.pid")
	if ping(socket) == nil {
		if r.pid = readPID(pidFile); r.pid != 0 {
			log.Info("found the redis-server of an earlier run", "pid", r.pid, "dir", dir)
			return r, nil
		}
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, ErrMissing
	}
	logFile, err := os.OpenFile(filepath.Join(dir, "redis.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of redis-server: %w", err)
	}
	defer logFile.Close()
	cmd := exec.Command(path, "--port", "0", "--unixsocket", socket, "--unixsocketperm", "600", "--dir", dir,
		"--pidfile", pidFile, "--daemonize", "no", "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
		"--maxmemory-policy", "noeviction")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the gateway, which stops it last
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start redis-server: %w", err)
	}
	r.pid = cmd.Process.Pid
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(r.pid)), 0o600); err != nil {
		r.Stop()
		return nil, fmt.Errorf("remember redis-server: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return r, r.await(ctx, socket, logFile.Name(), ended)
}

func (r *Redis) await(ctx context.Context, socket, log string, ended <-chan error) error {
	ctx, stop := context.WithTimeout(ctx, startTimeout)
	defer stop()
	for ping(socket) != nil {
		select {
		case err := <-ended:
			return fmt.Errorf("redis-server ended at its start (%w); it says why in %s", err, log)
		case <-ctx.Done():
			r.Stop()
			return fmt.Errorf("redis-server does not answer; see %s", log)
		case <-time.After(probeEvery):
		}
	}
	return nil
}

// Stop ends the server; it writes what it has first.
func (r *Redis) Stop() {
	process, err := os.FindProcess(r.pid)
	if err != nil || process.Signal(syscall.SIGTERM) != nil {
		return
	}
	for deadline := time.Now().Add(stopTimeout); time.Now().Before(deadline); time.Sleep(probeEvery) {
		if process.Signal(syscall.Signal(0)) != nil {
			return
		}
	}
	r.log.Warn("redis-server takes its time to stop; leaving it to finish", "pid", r.pid)
}

// ping asks by hand: this room knows no client library.
func ping(socket string) error {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer := make([]byte, 64)
	n, err := c.Read(answer)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(answer[:n]), "+PONG") {
		return errors.New("not ready: " + string(answer[:n]))
	}
	return nil
}

func readPID(file string) int {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || syscall.Kill(pid, 0) != nil {
		return 0
	}
	return pid
}
