package powercut_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const traced = "write,pwrite64,writev,fsync,fdatasync,truncate,ftruncate"

// disk is a redis-server whose system calls are written down, and what of its
// append-only file has reached the disk by them.
type disk struct {
	dir, port string
	args      []string
	strace    *exec.Cmd
	pid       int
	starts    int
	before    map[string]int64 // sizes of the files at the start, all of it on the disk
}

func newDisk(t *testing.T, appendfsync string, more ...string) *disk {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := &disk{dir: t.TempDir(), port: strconv.Itoa(l.Addr().(*net.TCPAddr).Port)}
	d.args = append([]string{
		"--port", d.port, "--bind", "127.0.0.1", "--dir", d.dir, "--save", "", "--maxmemory-policy", "noeviction",
		"--appendonly", "yes", "--appendfsync", appendfsync, "--pidfile", filepath.Join(d.dir, "pid"), "--daemonize", "no",
	}, more...)
	t.Cleanup(func() { d.end() })
	return d
}

func (d *disk) url() string   { return "redis://127.0.0.1:" + d.port }
func (d *disk) trace() string { return filepath.Join(d.dir, "strace") }

// start starts it on what is left, and waits until it answers.
func (d *disk) start(t *testing.T) {
	t.Helper()
	d.before = map[string]int64{}
	for _, path := range d.files(t) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		d.before[path] = info.Size()
	}
	args := []string{"-f", "--seccomp-bpf", "-qq", "-y", "-s", "200", "-e", "signal=none", "-e", "trace=" + traced, "-o", d.trace(), os.Args[0]}
	args = append(args, d.args...)
	if d.starts++; d.starts%2 == 0 {
		args = append(args, "--io-threads", "4") // others write the answers
	}
	d.strace = exec.Command("strace", args...)
	d.strace.Env = append(os.Environ(), asRedis+"=1")
	d.strace.Stderr = os.Stderr
	d.strace.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.strace.Start(); err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); ; {
		if answer, err := d.ask("PING"); err == nil && answer == "+PONG" {
			break
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatal("redis-server under strace does not answer")
		}
		<-time.After(10 * time.Millisecond) // it has no other way to say that it listens
	}
	raw, err := os.ReadFile(filepath.Join(d.dir, "pid"))
	if err == nil {
		d.pid, err = strconv.Atoi(strings.TrimSpace(string(raw)))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// asRedis makes this test binary the redis-server with its arguments, that ends with
// strace, which would leave it running.
const asRedis = "POWERCUT_AS_REDIS"

func becomeRedis() error {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return err
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0); errno != 0 {
		return errno
	}
	return syscall.Exec(path, append([]string{"redis-server"}, os.Args[1:]...), os.Environ())
}

func (d *disk) ask(command string) (string, error) {
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+d.port, time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c, "%s\r\n", command); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// rewrite begins a new append-only file.
func (d *disk) rewrite(t *testing.T) {
	t.Helper()
	if answer, err := d.ask("BGREWRITEAOF"); err != nil || !strings.HasPrefix(answer, "+") {
		t.Errorf("rewrite the file: %q, %v", answer, err)
	}
}

// kill is kill -9. It returns when.
func (d *disk) kill(t *testing.T) time.Time {
	t.Helper()
	at := time.Now()
	if err := syscall.Kill(d.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.end()
	return at
}

func (d *disk) end() {
	if d.strace == nil {
		return
	}
	if d.pid > 0 {
		_ = syscall.Kill(d.pid, syscall.SIGKILL)
	}
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	end := context.AfterFunc(ctx, func() { d.strace.Process.Kill() })
	defer end()
	_ = d.strace.Wait() // it ends as its child did
	d.strace, d.pid = nil, 0
}

// files are those of the append-only file that grow.
func (d *disk) files(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(d.dir, "appendonlydir", "*.incr.aof"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// cut takes from the files what was not synced, and returns how much that was.
func (d *disk) cut(t *testing.T) (dropped int64) {
	t.Helper()
	trace, err := os.Open(d.trace())
	if err != nil {
		t.Fatal(err)
	}
	defer trace.Close()
	r := newReading(d.dir, d.before)
	for lines := bufio.NewScanner(trace); lines.Scan(); {
		r.line(lines.Text())
	}
	for _, path := range d.files(t) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		f := r.file(path)
		if f.size > info.Size() || f.synced > info.Size() || f.size == 0 && info.Size() > 0 {
			t.Fatalf("%s has %d bytes, by the trace %d written and %d synced: the trace is not understood", path, info.Size(), f.size, f.synced)
		}
		dropped += info.Size() - f.synced
		if err := os.Truncate(path, f.synced); err != nil {
			t.Fatal(err)
		}
	}
	return dropped
}

// reading is what a trace tells of files: how much was written, and synced.
type reading struct {
	dir   string
	files map[string]*extent
	calls map[string]call // by thread: begun, not ended
}

type extent struct{ size, synced int64 }

type call struct {
	name string
	on   *extent
	size int64 // when it began: of a sync what it is good for, of a cut what it leaves
}

func newReading(dir string, before map[string]int64) *reading {
	r := &reading{dir, map[string]*extent{}, map[string]call{}}
	for path, size := range before {
		r.files[path] = &extent{size, size}
	}
	return r
}

func (r *reading) file(path string) *extent {
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.dir, path)
	}
	f := r.files[path]
	if f == nil {
		f = &extent{}
		r.files[path] = f
	}
	return f
}

var (
	begins  = regexp.MustCompile(`^(\d+) +(\w+)\((?:\d+<([^>]*)>|"([^"]*)")(.*)$`)
	resumes = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>`)
	ends    = regexp.MustCompile(`\) += (-?\d+)[^=]*$`)
	length  = regexp.MustCompile(`, (\d+)(?:\) += | <unfinished)`)
)

// line reads one line. A call that another thread's line falls into has two.
func (r *reading) line(text string) {
	thread := ""
	if m := resumes.FindStringSubmatch(text); m != nil {
		thread = m[1]
	} else if m := begins.FindStringSubmatch(text); m != nil {
		thread = m[1]
		c := call{name: m[2], on: r.file(m[3] + m[4])}
		c.size = c.on.size
		if strings.HasSuffix(c.name, "truncate") {
			if n := length.FindStringSubmatch(m[5]); n != nil {
				c.size, _ = strconv.ParseInt(n[1], 10, 64)
			}
		}
		r.calls[thread] = c
	}
	end := ends.FindStringSubmatch(text)
	c, open := r.calls[thread]
	if !open || end == nil {
		return
	}
	delete(r.calls, thread)
	n, _ := strconv.ParseInt(end[1], 10, 64)
	switch {
	case n < 0:
	case strings.HasSuffix(c.name, "sync"):
		c.on.synced = max(c.on.synced, c.size)
	case strings.HasSuffix(c.name, "truncate"):
		c.on.size, c.on.synced = c.size, min(c.on.synced, c.size)
	default:
		c.on.size += n
	}
}
