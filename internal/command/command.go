// Package command answers requests by running a program, one process a request,
// so that anything with a standard input and output is a worker:
//
//	c, err := command.New(command.Options{Args: []string{"./resize.sh", "80"}})
//	w.Handle("resize", c.Handle)
//	err = w.Run(ctx)
//	c.Wait() // until the last process is gone
//
// The body is the standard input, the standard output is the reply. Standard
// error goes line by line to the log, and its end to the client where the
// request fails. Each line on file descriptor 3 is a progress event. Exit code 0
// is success, 75 (EX_TEMPFAIL of sysexits.h) asks for another attempt, any other
// is a failure. What is known of the request is in the environment.
//
// Each process leads a process group of its own. When nobody wants its reply any
// more, the whole group gets SIGTERM, and SIGKILL after a grace. What the process
// leaves running in its group when it ends is killed too: a request leaves
// nothing behind.
//
// Pitfalls. A child that makes a session of its own (setsid, most daemons) is out
// of reach. A program that runs while the worker itself dies of SIGKILL is ended
// on Linux, but not its children; elsewhere it goes on. Whatever it says after it
// was told to stop, an exit code 0 included, is not the reply: nobody could tell
// it from a whole one.
package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
)

// Defaults of the options.
const (
	DefaultMaxReply  = 10 << 20 // what gateways take by default
	DefaultKillAfter = 2 * time.Second
)

// tempFail is the exit code that asks for another attempt: EX_TEMPFAIL.
const tempFail = 75

// Options of New. Args is required.
type Options struct {
	Args        []string      // the program, by path or by name on PATH, and its arguments
	ContentType string        // of the reply; "" for none
	MaxReply    int           // largest reply in bytes; default DefaultMaxReply
	KillAfter   time.Duration // from SIGTERM to SIGKILL; default DefaultKillAfter
	Logger      *slog.Logger  // default slog.Default()
}

// Command runs a program for each request.
type Command struct {
	options Options
	path    string
	running sync.WaitGroup
}

// New finds the program. An error says that it isn't there or can't be run.
func New(o Options) (*Command, error) {
	if len(o.Args) == 0 {
		return nil, errors.New("there is no command to run")
	}
	if o.MaxReply <= 0 {
		o.MaxReply = DefaultMaxReply
	}
	if o.KillAfter <= 0 {
		o.KillAfter = DefaultKillAfter
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	path, err := exec.LookPath(o.Args[0])
	if err != nil {
		return nil, fmt.Errorf("find the command: %w", err)
	}
	return &Command{options: o, path: path}, nil
}

// Wait returns once no process of any request runs any more. Call it when the
// worker's Run is over: a process may have outlived the worker's grace.
func (c *Command) Wait() { c.running.Wait() }

// Handle is the worker.Handler.
func (c *Command) Handle(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	c.running.Add(1)
	defer c.running.Done()
	log := c.options.Logger.With("correlation_id", r.ID, "service", r.Service, "attempt", r.Attempt)
	p, err := c.start(ctx, r, log)
	if err != nil {
		// Too many processes, or the program is just being replaced: another
		// attempt, perhaps by another worker, may do better.
		log.Error("the command can't be started; the request is given another attempt", "error", err)
		return worker.Reply{}, worker.Retry(errors.New("the command could not be started"), 0)
	}
	return c.judge(ctx, p, p.wait(ctx))
}

// judge turns how a process ended into an answer.
func (c *Command) judge(ctx context.Context, p *process, end ending) (worker.Reply, error) {
	switch {
	case errors.Is(end.cause, errTooLarge):
		return worker.Reply{}, worker.Fail("reply_too_large", fmt.Sprintf("The command wrote more than %d bytes.", c.options.MaxReply))
	case end.cause != nil:
		return worker.Reply{}, fmt.Errorf("the command was stopped: %w", context.Cause(ctx))
	case end.signal != 0:
		return worker.Reply{}, worker.Fail(fmt.Sprintf("signal_%d", end.signal), p.explain(fmt.Sprintf("The command was ended by signal %d (%s)", end.signal, end.signal)))
	case end.code == tempFail:
		return worker.Reply{}, worker.Retry(errors.New(p.explain("The command asked for another attempt")), 0)
	case end.code != 0:
		return worker.Reply{}, worker.Fail(fmt.Sprintf("exit_%d", end.code), p.explain(fmt.Sprintf("The command ended with exit code %d", end.code)))
	}
	return worker.Reply{ContentType: c.options.ContentType, Body: p.reply.bytes()}, nil
}
