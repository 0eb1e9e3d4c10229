package fleet

import (
	"bytes"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

const kept = 4 << 10 // bytes of what a process said last

// Process is one process of the fleet. Its methods may be called from many
// goroutines.
type Process struct {
	t    testing.TB
	args []string
	env  []string
	said said

	mu   sync.Mutex    // guards the rest
	cmd  *exec.Cmd     // nil: it was killed
	over chan struct{} // closed when cmd has ended
	loop bool          // it is started again when it ends by itself
	ends int           // how often it did
}

func start(t testing.TB, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, args: args, env: env}
	p.Start()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%v said last:\n%s", args, p.Said())
		}
	})
	return p
}

// Start starts it again after Kill.
func (p *Process) Start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return
	}
	p.launch()
}

// launch needs mu.
func (p *Process) launch() {
	c, over := exec.Command(p.args[0], p.args[1:]...), make(chan struct{})
	c.Env = append(append(os.Environ(), "HOME=/nonexistent"), p.env...)
	c.Stdout, c.Stderr = &p.said, &p.said
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		p.t.Errorf("start %v: %v", p.args, err)
		return
	}
	p.cmd, p.over = c, over
	go func() {
		defer close(over)
		err := c.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case p.cmd != c: // it was killed
		case p.loop:
			p.ends++
			p.launch()
		default:
			p.t.Errorf("%v ended by itself: %v", p.args, err)
		}
	}()
}

// Kill ends it as kill -9 does, and returns when it is gone.
func (p *Process) Kill() {
	p.mu.Lock()
	c, over := p.cmd, p.over
	p.cmd = nil
	p.mu.Unlock()
	if c != nil {
		_ = c.Process.Kill() // it may have ended
		<-over
	}
}

// Drain tells it to end by SIGTERM, and returns how long that took. One that takes
// longer than most is killed, and fails its test.
func (p *Process) Drain(most time.Duration) time.Duration {
	p.mu.Lock()
	c, over := p.cmd, p.over
	p.cmd = nil
	p.mu.Unlock()
	begun := time.Now()
	if c == nil {
		return 0
	}
	_ = c.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-over:
	case <-time.After(most):
		p.t.Errorf("%v did not end within %v", p.args, most)
		_ = c.Process.Kill()
		<-over
	}
	return time.Since(begun)
}

// Ends is how often a CrashLoop ended.
func (p *Process) Ends() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ends
}

// Stop has it stand still, its connections open.
func (p *Process) Stop() { p.signal(syscall.SIGSTOP) }

// Continue lets it go on after Stop.
func (p *Process) Continue() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s) // it may have ended
	}
}

// PID is its process id, 0 while it is killed.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Said is the last of what it said.
func (p *Process) Said() string { text, _ := p.said.read(); return text }

// Lines is how many lines it has said so far.
func (p *Process) Lines() int { _, n := p.said.read(); return n }

// said keeps the end of what is written to it.
type said struct {
	mu    sync.Mutex // guards the rest
	text  []byte
	lines int
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines += bytes.Count(b, []byte("\n"))
	s.text = append(s.text, b...)
	s.text = s.text[max(0, len(s.text)-kept):]
	return len(b), nil
}

func (s *said) read() (string, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.text), s.lines
}
