package command

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// groupOfItsOwn makes a process the leader of a group, so that a signal reaches
// its children too. It dies with the worker: whoever takes the request over must
// not meet the program still at work.
func groupOfItsOwn() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// exit closes the channel when the process has ended. It is not reaped by then,
// so that its number, which is its group's, can't be anybody else's.
func exit(cmd *exec.Cmd) <-chan struct{} {
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		for {
			err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
			if !errors.Is(err, unix.EINTR) {
				return // also where somebody reaped it: then it has ended
			}
		}
	}()
	return exited
}

// reap takes what is left of a process that has ended.
func reap(cmd *exec.Cmd) *os.ProcessState {
	_ = cmd.Wait() // its state has what the error says
	return cmd.ProcessState
}
