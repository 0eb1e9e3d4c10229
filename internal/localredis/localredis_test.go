package localredis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines is a log that a test can wait for.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
	more chan struct{} // gets a value at a new line; never closed
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	l.text.Write(p)
	l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (l *lines) await(t *testing.T, what string) {
	t.Helper()
	for late := time.After(10 * time.Second); ; {
		l.mu.Lock()
		text := l.text.String()
		l.mu.Unlock()
		if strings.Contains(text, what) {
			return
		}
		select {
		case <-l.more:
		case <-late:
			t.Fatalf("the log never says %q:\n%s", what, text)
		}
	}
}

func logger() (*slog.Logger, *lines) {
	l := &lines{more: make(chan struct{}, 1)}
	return slog.New(slog.NewTextHandler(l, nil)), l
}

// start gives a server that ends with the test, whatever happens.
func start(t *testing.T, dir string) (*Redis, *lines) {
	t.Helper()
	log, said := logger()
	r, err := Start(t.Context(), dir, false, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shutdown(r.socket) })
	return r, said
}

func tell(t *testing.T, r *Redis, command, want string) {
	t.Helper()
	if got, err := ask(r.socket, command); err != nil || got != want {
		t.Fatalf("%s: %q, %v; want %q", command, got, err, want)
	}
}

func pid(t *testing.T, r *Redis) int {
	t.Helper()
	c, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "INFO server\r\nQUIT\r\n")
	info, _ := io.ReadAll(c)
	_, rest, _ := strings.Cut(string(info), "process_id:")
	text, _, _ := strings.Cut(rest, "\r")
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("no process id in %q", info)
	}
	return n
}

func gone(t *testing.T, r *Redis) {
	t.Helper()
	if err := ping(r.socket); err == nil {
		t.Error("the server still answers")
	}
	l, err := r.lockServer()
	if err != nil {
		t.Fatalf("the server still holds its lock: %v", err)
	}
	l.Close()
}

func TestDataSurvivesAStop(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for", "it")
	r, _ := start(t, dir)
	tell(t, r, "SET kept yes", "+OK")
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, r.socket: 0o600 | os.ModeSocket, r.logPath(): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	r.Stop()
	gone(t, r)
	r, _ = start(t, dir)
	tell(t, r, "GET kept", "$3\r\nyes")
	r.Stop()
	gone(t, r)
}

func TestTwoGatewaysShareAServer(t *testing.T) {
	dir := t.TempDir()
	first, _ := start(t, dir)
	second, said := start(t, dir)
	said.await(t, "runs already")
	if a, b := pid(t, first), pid(t, second); a != b {
		t.Fatalf("two servers, %d and %d, on one directory", a, b)
	}
	first.Stop()
	tell(t, second, "PING", "+PONG")
	second.Stop()
	gone(t, second)
}

// Whoever wants every write synced gets it, also of a server that is there already;
// who does not takes it from nobody.
func TestSyncsEveryWriteWhereWanted(t *testing.T) {
	const often = "*2\r\n$11\r\nappendfsync\r\n$%d\r\n%s"
	dir := t.TempDir()
	first, _ := start(t, dir)
	tell(t, first, "CONFIG GET appendfsync", fmt.Sprintf(often, 8, "everysec"))
	log, _ := logger()
	second, err := Start(t.Context(), dir, true, log)
	if err != nil {
		t.Fatal(err)
	}
	tell(t, first, "CONFIG GET appendfsync", fmt.Sprintf(often, 6, "always"))
	third, _ := start(t, dir)
	tell(t, first, "CONFIG GET appendfsync", fmt.Sprintf(often, 6, "always"))
	first.Stop()
	third.Stop()
	kill(t, second)
	tell(t, second, "CONFIG GET appendfsync", fmt.Sprintf(often, 6, "always"))
	second.Stop()
	gone(t, second)
}

// kill ends the server as kill -9 does, and waits for the next one.
func kill(t *testing.T, r *Redis) {
	t.Helper()
	before := pid(t, r)
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for tick, late := time.NewTicker(probeEvery), time.After(10*time.Second); ; {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("no server comes back")
		}
		if ping(r.socket) == nil && pid(t, r) != before {
			return
		}
	}
}

// Whichever gateway sees it first starts the server again, also one that did
// not start it before.
func TestKilledServerComesBackWithItsData(t *testing.T) {
	dir := t.TempDir()
	first, _ := start(t, dir)
	second, said := start(t, dir)
	tell(t, first, "SET kept yes", "+OK")
	kill(t, first)
	tell(t, first, "GET kept", "$3\r\nyes")
	first.Stop()
	kill(t, second)
	said.await(t, "ended by itself")
	said.await(t, "runs again")
	tell(t, second, "GET kept", "$3\r\nyes")
	second.Stop()
	gone(t, second)
}

func TestSaysWhyItCannotStart(t *testing.T) {
	broken := t.TempDir()
	if err := os.MkdirAll(filepath.Join(broken, "appendonlydir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "appendonlydir", "appendonly.aof.manifest"), []byte("garbage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		broken: "redis.log", file: "not a directory", filepath.Join(t.TempDir(), strings.Repeat("x", 100)): "too long for a unix socket",
	} {
		log, _ := logger()
		_, err := Start(t.Context(), dir, false, log)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want a line about %q", err, want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	log, _ := logger()
	if _, err := Start(t.Context(), t.TempDir(), false, log); !errors.Is(err, ErrMissing) {
		t.Errorf("%v", err)
	}
}

// A server that another one started, and that loads its data, is waited for;
// none is started beside it.
func TestLoadingServerIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	held, err := lock(filepath.Join(dir, "redis.lock"), exclusive)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	l, err := net.Listen("unix", filepath.Join(dir, "redis.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log, said := logger()
	served := make(chan struct{})
	go func() {
		defer close(served)
		for n := range 4 {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.ReadAtLeast(c, make([]byte, 64), len("PING\r\n"))
			if n < 3 {
				io.WriteString(c, "-LOADING Redis is loading the dataset in memory\r\n")
			} else {
				io.WriteString(c, "+PONG\r\n")
			}
			c.Close()
		}
		l.Close() // before Stop asks
	}()
	r, err := Start(t.Context(), dir, false, log)
	if err != nil {
		t.Fatal(err)
	}
	<-served
	said.await(t, "loading its data")
	held.Close()
	r.Stop()
	if _, err := os.Stat(r.logPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a second server was started: %v", err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	held, err := lock(filepath.Join(dir, "redis.lock"), exclusive) // by a server that never answers
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	log, _ := logger()
	if _, err := Start(ctx, dir, false, log); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
