package redistest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// process is a redis-server of one test.
type process struct {
	args []string
	dir  string
	log  *bytes.Buffer

	mu  sync.Mutex // guards cmd
	cmd *exec.Cmd
}

// Start starts a redis-server on a free port, without persistence unless args
// (as on its command line, e.g. "--appendonly", "yes") say so. Its directory is
// the test's and survives Restart.
func Start(t testing.TB, args ...string) *Redis {
	t.Helper()
	return start(t, freePort(t), t.TempDir(), args...)
}

func start(t testing.TB, port, dir string, args ...string) *Redis {
	t.Helper()
	return launch(t, port, dir, append([]string{
		"--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "",
		"--maxmemory-policy", "noeviction", "--repl-diskless-sync-delay", "0",
	}, args...))
}

func launch(t testing.TB, port, dir string, args []string) *Redis {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("redis-server is not on PATH: run `make test`, or install it (Debian: apt-get install redis-server)")
	}
	p := &process{args: append([]string{path}, args...), dir: dir, log: new(bytes.Buffer)}
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("redis-server said:\n%s", tail(p.log.Bytes(), 2000))
		}
	})
	r := attach(t, "redis://127.0.0.1:"+port, nil, p)
	r.Restart(t)
	return r
}

// Restart starts the server again after Kill or Shutdown and waits until it
// answers.
func (r *Redis) Restart(t testing.TB) {
	t.Helper()
	p := r.process
	p.mu.Lock()
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := p.cmd.Start()
	p.mu.Unlock()
	if err != nil {
		t.Fatalf("start redis-server: %v", err)
	}
	r.await(t)
}

// Kill ends the server as kill -9 does.
func (r *Redis) Kill() { r.process.signal(syscall.SIGKILL) }

// Pause stops the server's process without closing its connections.
func (r *Redis) Pause() { r.process.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (r *Redis) Resume() { r.process.cmd.Process.Signal(syscall.SIGCONT) }

// PID is the server's process id.
func (r *Redis) PID() int { return r.process.cmd.Process.Pid }

func (p *process) signal(s os.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	p.cmd.Process.Signal(s)
	p.cmd.Wait() // the state says "killed", which is what was asked for
	p.cmd = nil
}

// await polls because redis-server has no other way to say that it listens.
func (r *Redis) await(t testing.TB) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	for {
		once := redis.NewClient(&redis.Options{Addr: r.Client.Options().Addr, MaxRetries: -1, DisableIdentity: true, MaintNotificationsConfig: quiet})
		err := once.Ping(ctx).Err()
		once.Close()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("redis-server does not answer: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Ports below those that the system hands out by itself: one of these stays free
// while a server that had it is down for a moment.
const lowestPort, highestPort = 20000, 32000

// FreeAddr is a loopback address that nobody listens on.
func FreeAddr(t testing.TB) string {
	t.Helper()
	var err error
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowestPort+rand.IntN(highestPort-lowestPort)))
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatalf("find a free port: %v", err)
	return ""
}

func freePort(t testing.TB) string {
	t.Helper()
	_, port, err := net.SplitHostPort(FreeAddr(t))
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	return port
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }
