package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
)

// lingers is how long what a process started may hold its output once the
// process has ended, before it is killed; and how long somebody out of reach,
// who holds it all the same, is listened to.
const lingers = time.Second

// errTooLarge is the cause with which a process is stopped that writes more than
// a reply may have.
var errTooLarge = errors.New("the reply is too large")

// process is a program that runs for one request, and the leader of its group.
type process struct {
	cmd       *exec.Cmd
	log       *slog.Logger
	killAfter time.Duration

	reply    *reply
	complain *tail
	exited   <-chan struct{} // closed once the leader has ended

	ours    []*os.File     // our ends of its streams
	events  *patient       // that of file descriptor 3
	streams sync.WaitGroup // those who read and write them
}

// ending is how a process ended.
type ending struct {
	cause  error // why it was told to stop, nil if it ended by itself
	code   int
	signal syscall.Signal // 0 for none
}

// start runs the program and its streams.
func (c *Command) start(ctx context.Context, r *worker.Request, log *slog.Logger) (*process, error) {
	p := &process{
		log: log, killAfter: c.options.KillAfter,
		reply: newReply(c.options.MaxReply), complain: &tail{},
		cmd: &exec.Cmd{
			Path: c.path, Args: c.options.Args, Env: environment(os.Environ(), r), SysProcAttr: groupOfItsOwn(),
		},
	}
	var theirs []*os.File
	pipe := func(reads bool) (our, their *os.File) { // reads: whether the process does
		in, out, err := os.Pipe()
		if err != nil {
			log.Error("no pipe for the command", "error", err)
			return nil, nil
		}
		our, their = in, out
		if reads {
			our, their = out, in
		}
		p.ours, theirs = append(p.ours, our), append(theirs, their)
		return our, their
	}
	closeAll := func(files []*os.File) {
		for _, f := range files {
			f.Close()
		}
	}
	defer func() { closeAll(theirs) }() // or the streams would never end
	body, stdin := pipe(true)
	output, stdout := pipe(false)
	complaints, stderr := pipe(false)
	events, third := pipe(false)
	if len(p.ours) < 4 {
		closeAll(p.ours)
		return nil, errors.New("the process has no file descriptors left")
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = stdin, stdout, stderr, []*os.File{third}
	if err := p.cmd.Start(); err != nil {
		closeAll(p.ours)
		return nil, err
	}
	p.exited = exit(p.cmd)
	p.events = &patient{file: events}
	p.streams.Go(func() {
		_, _ = io.Copy(body, bytes.NewReader(r.Body)) // a program need not read what it is given
		body.Close()
	})
	p.streams.Go(func() { _, _ = io.Copy(p.reply, output) })
	p.streams.Go(func() { lines(complaints, longestLine, p.complained) })
	p.streams.Go(func() {
		lines(p.events, worker.MaxEvent, func(line []byte, cut bool) { p.progressed(ctx, r, line, cut) })
	})
	return p, nil
}

// wait returns once the process, its group and its streams have ended. It stops
// them when ctx ends, or when the reply grows too large.
func (p *process) wait(ctx context.Context) (end ending) {
	select {
	case <-p.exited:
	case <-p.reply.tooLarge:
		end.cause = errTooLarge
	case <-ctx.Done():
		end.cause = context.Cause(ctx)
	}
	leave := time.Now().Add(lingers)
	if end.cause != nil {
		leave = time.Now().Add(p.killAfter)
		p.log.Debug("the command is told to stop", "cause", end.cause)
		p.signal(syscall.SIGTERM)
		if !closed(p.exited, leave) {
			p.log.Warn("the command did not stop; it is killed", "after", p.killAfter)
			p.signal(syscall.SIGKILL)
			<-p.exited
		}
	}
	done := make(chan struct{}) // closed by the goroutine below
	go func() {
		p.streams.Wait()
		close(done)
	}()
	closed(done, leave)
	p.signal(syscall.SIGKILL) // its leader is not reaped yet, so nobody else has its number
	p.hush()
	select {
	case <-done:
	case <-ctx.Done(): // no event is wanted any more
		p.events.cut()
		<-done
	}
	for _, f := range p.ours {
		f.Close()
	}
	if p.reply.over() && end.cause == nil {
		end.cause = errTooLarge
	}
	state := reap(p.cmd)
	end.code = state.ExitCode()
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		end.signal = status.Signal()
	}
	return end
}

// signal reaches the whole group. That there is nobody any more is no error.
func (p *process) signal(s syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, s) }

// hush ends the streams although somebody may still hold them. Events that wait
// for Redis are still taken.
func (p *process) hush() {
	for _, f := range p.ours {
		if f != p.events.file {
			_ = f.SetDeadline(time.Now().Add(lingers))
		}
	}
	p.events.hurry()
}

// complained takes a line of standard error.
func (p *process) complained(line []byte, _ bool) {
	p.complain.add(line)
	p.log.Info("the command says", "line", string(bytes.ToValidUTF8(line, []byte("�"))))
}

// progressed takes a line of file descriptor 3. Whatever becomes of it, the next
// one must be read, or the program would wait for us.
func (p *process) progressed(ctx context.Context, r *worker.Request, line []byte, cut bool) {
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case len(line) == 0:
	case cut:
		p.log.Warn("a progress line of the command is too long and is left out", "limit", worker.MaxEvent)
	default:
		if err := r.Progress(ctx, line); err != nil {
			p.log.Debug("progress of the command was not sent", "error", err)
		}
	}
}

// explain is said, and the end of what the program complained about.
func (p *process) explain(said string) string {
	if end := p.complain.text(); end != "" {
		return said + ": " + end
	}
	return said + "."
}

// closed waits for c until then, and tells whether it was closed.
func closed(c <-chan struct{}, then time.Time) bool {
	t := time.NewTimer(time.Until(then))
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}
