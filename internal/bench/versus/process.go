package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	clockTicks = 100 // a second: USER_HZ of every Linux that Go runs on
	startTime  = 20 * time.Second
	stopTime   = 5 * time.Second
	lookEvery  = 10 * time.Millisecond
	lastWords  = 2000 // bytes of what a process said, for an error
)

// process is one that the lab started.
type process struct {
	name string
	cmd  *exec.Cmd
	over chan struct{} // closed once it ended
	said tail
}

// tail keeps the last of what is written to it.
type tail struct {
	mu   sync.Mutex // guards text
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-lastWords):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}

// start starts a process that dies with this one. Of the environment it has what
// any program needs, and env.
func start(dir, name, path string, env []string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(path, args...), over: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + dir}, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // its state says how it ended
		close(p.over)
	}()
	return p, nil
}

// stop ends it; nil is no process.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.over:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill()
		<-p.over
	}
}

// until waits for ready to be true, as long as the process lives.
func (p *process) until(ctx context.Context, what string, ready func() bool) error {
	ctx, stop := context.WithTimeout(ctx, startTime)
	defer stop()
	each := time.NewTicker(lookEvery)
	defer each.Stop()
	for !ready() {
		select {
		case <-each.C:
		case <-p.over:
			return fmt.Errorf("%s ended before %s: %s", p.name, what, p.said.String())
		case <-ctx.Done():
			return fmt.Errorf("%s: %s did not come: %s", p.name, what, p.said.String())
		}
	}
	return nil
}

// cpu is the time that it has used, of user and system.
func (p *process) cpu() time.Duration {
	if p == nil {
		return 0
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(raw), ") ") // the name may have spaces
	fields := strings.Fields(rest)               // the first is the third of proc(5)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / clockTicks
}

// machineCPU is what everything on the machine has used. 0 where nobody can say.
func machineCPU() (used time.Duration) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	for i, field := range strings.Fields(line) {
		// proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user
		if ticks, err := strconv.ParseInt(field, 10, 64); err == nil && i <= 8 && i != 4 && i != 5 {
			used += time.Duration(ticks) * time.Second / clockTicks
		}
	}
	return used
}

// selfCPU is what this process has used.
func selfCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// freeAddr is a loopback address where nothing listens now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
