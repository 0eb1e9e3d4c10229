package localredis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	watchEvery   = 250 * time.Millisecond
	firstPause   = 500 * time.Millisecond // before a server that won't start is tried again; doubling
	longestPause = 30 * time.Second
	tailBytes    = 4 << 10 // of the server's log that are searched for its last words
	tailShown    = 200
)

func (r *Redis) lockServer() (*os.File, error) {
	return lock(filepath.Join(r.dir, "redis.lock"), exclusive)
}

// ensure starts a server where there is none, and waits until it answers.
func (r *Redis) ensure(ctx context.Context) (started bool, err error) {
	var ended <-chan error // of the server that was started here; nil where it is another's
	silent := time.Now()
	loading := false
	for {
		if ended == nil {
			l, err := r.lockServer()
			if err == nil {
				ended, err = r.launch(l)
				l.Close() // the server has it
			}
			if err != nil && !errors.Is(err, errTaken) {
				return false, err
			}
		}
		err := ping(r.socket)
		switch {
		case err == nil:
			return ended != nil, r.demand()
		case errors.Is(err, errLoading):
			silent = time.Now()
			if !loading {
				r.log.Info("redis-server is loading its data", "dir", r.dir)
			}
			loading = true
		case time.Since(silent) > startTimeout:
			return false, fmt.Errorf("redis-server does not answer%s", r.lastWords())
		}
		select {
		case err := <-ended:
			return false, fmt.Errorf("redis-server ended at its start (%w)%s", err, r.lastWords())
		case <-ctx.Done():
			return false, fmt.Errorf("start redis-server: %w", ctx.Err())
		case <-time.After(probeEvery):
		}
	}
}

// launch starts a server that holds the lock l. ended gets one value.
func (r *Redis) launch(l *os.File) (ended <-chan error, err error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, ErrMissing
	}
	log, err := os.OpenFile(r.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of redis-server: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(path, "--port", "0", "--unixsocket", r.socket, "--unixsocketperm", "600", "--dir", r.dir,
		"--daemonize", "no", "--appendonly", "yes", "--appendfsync", r.fsync(), "--save", "",
		"--maxmemory-policy", "noeviction")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{l}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the gateway, which stops it last
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start redis-server: %w", err)
	}
	exit := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exit status 0")
		}
		exit <- err
	}()
	return exit, nil
}

// demand has a server that another gateway started sync as often as is wanted here;
// never less often than that one wants.
func (r *Redis) demand() error {
	if !r.always {
		return nil
	}
	answer, err := ask(r.socket, "CONFIG SET appendfsync always")
	if err == nil && answer != "+OK" {
		err = fmt.Errorf("it says %q", answer)
	}
	if err != nil {
		return fmt.Errorf("have redis-server sync every write: %w", err)
	}
	return nil
}

func (r *Redis) fsync() string {
	if r.always {
		return "always"
	}
	return "everysec"
}

// watch starts the server again where it ended by itself, until Stop.
func (r *Redis) watch() {
	defer close(r.done)
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go func() {
		select {
		case <-r.stop:
			end()
		case <-ctx.Done():
		}
	}()
	pause := firstPause
	for sleep(ctx, watchEvery) {
		l, err := r.lockServer()
		if err != nil {
			continue // it is held: the server lives
		}
		l.Close()
		r.log.Error("redis-server ended by itself; starting it again", "dir", r.dir)
		_, err = r.ensure(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			r.log.Error("redis-server can't be started again; new requests are refused until it can", "error", err, "next_try_in", pause)
			sleep(ctx, pause)
			pause = min(2*pause, longestPause)
		default:
			r.log.Info("redis-server runs again", "dir", r.dir)
			pause = firstPause
		}
	}
}

func (r *Redis) logPath() string { return filepath.Join(r.dir, "redis.log") }

// lastWords is what the server said last, for an error of one line.
func (r *Redis) lastWords() string {
	raw, err := os.ReadFile(r.logPath())
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(raw[max(0, len(raw)-tailBytes):])), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	return fmt.Sprintf("; the end of %s: %q", r.logPath(), last[:min(len(last), tailShown)])
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
