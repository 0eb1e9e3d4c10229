package conformance

import (
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// process is a worker that the run started. It leads a process group, so that
// what it started itself is killed and stopped with it.
type process struct {
	cmd  *exec.Cmd
	over chan struct{} // closed by start's goroutine when the process ended
}

func start(command string, output io.Writer) (*process, error) {
	p := &process{cmd: exec.Command("sh", "-c", "exec "+command), over: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = time.Second // for the output, which a child may hold open
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the worker: %w", err)
	}
	go func() {
		defer close(p.over)
		_ = p.cmd.Wait() // how it ended is in its state
	}()
	return p, nil
}

// all signals the process and what it started. Once it has ended its number may
// be somebody else's.
func (p *process) all(s syscall.Signal) {
	if !p.ended(0) {
		_ = syscall.Kill(-p.cmd.Process.Pid, s) // it may end just now
	}
}

// terminate asks the process to end, as an init system does.
func (p *process) terminate() { _ = p.cmd.Process.Signal(syscall.SIGTERM) }

// kill ends the process at once, and returns when it is gone.
func (p *process) kill() {
	p.all(syscall.SIGKILL)
	<-p.over
}

// ended waits for the end of the process.
func (p *process) ended(within time.Duration) bool {
	select {
	case <-p.over:
		return true
	case <-time.After(within):
		select { // both may be
		case <-p.over:
			return true
		default:
			return false
		}
	}
}
