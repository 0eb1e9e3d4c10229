//go:build !linux

package command

import (
	"os"
	"os/exec"
	"syscall"
)

// groupOfItsOwn makes a process the leader of a group, so that a signal reaches
// its children too.
func groupOfItsOwn() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// exit closes the channel when the process has ended. It is reaped by then; its
// number is not given away again within the time that this room still needs it.
func exit(cmd *exec.Cmd) <-chan struct{} {
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // its state has what the error says
	}()
	return exited
}

// reap takes what is left of a process that has ended.
func reap(cmd *exec.Cmd) *os.ProcessState { return cmd.ProcessState }
