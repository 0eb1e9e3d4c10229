package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
)

const (
	// sendMargin is for how long after the deadline a finished reply is still
	// offered: Redis' clock decides, and ours may be a little ahead.
	sendMargin = 2 * time.Second
	// atOnce is the delay of a retry that says: give it to another worker now.
	atOnce = time.Millisecond
)

// job is one delivery and its handler.
type job struct {
	run      *run
	delivery broker.Delivery
	handler  Handler
	request  Request

	ctx handlerContext // its deadline is by our clock

	slot    int                  // set by slots
	every   time.Duration        // between heartbeats
	beatAt  time.Time            // the next; guarded by the mutex of slots
	beating atomic.Pointer[beat] // nil for none

	mu       sync.Mutex // guards the rest, and keeps replies in order: seq is theirs
	seq      int
	answered bool // or about to be: the last reply is on its way
}

func (r *run) newJob(d broker.Delivery, h Handler, now time.Time) *job {
	j := &job{run: r, delivery: d, handler: h, every: r.interval(d)}
	j.beatAt = now.Add(j.every)
	j.ctx.all, j.ctx.deadline = r.work, r.clock.local(d.Deadline)
	j.request = Request{
		ID: d.ID, Attempt: d.Attempt, Service: d.Service, Deadline: j.ctx.deadline, ContentType: d.ContentType,
		Headers: d.Headers, Traceparent: d.Traceparent, Body: d.Body, job: j,
	}
	for i := len(r.chain) - 1; i >= 0; i-- {
		j.handler = r.chain[i](j.handler)
	}
	return j
}

// log is made where there is something to say.
func (j *job) log() *slog.Logger {
	return j.run.log.With("correlation_id", j.delivery.ID, "service", j.delivery.Service, "attempt", j.delivery.Attempt)
}

// debug logs where somebody reads it.
func (j *job) debug(what string, args ...any) {
	if j.run.log.Enabled(&j.ctx, slog.LevelDebug) {
		j.log().Debug(what, args...)
	}
}

// errPanic is what the client reads of a handler that did not return.
var errPanic = Fail("panic", "The worker's handler panicked.")

// work calls the handler and sends what it answered. The slot is free once that is sent.
func (j *job) work() {
	var reply Reply
	err := errPanic
	defer func() { // deferred for the sake of a handler that calls runtime.Goexit
		j.hush()
		out := j.judge(reply, err)
		j.ctx.cancel(nil)
		if out == nil {
			j.run.end(j)
			return
		}
		j.answer(out)
	}()
	reply, err = j.call()
}

// call runs the handler and turns a panic into an error.
func (j *job) call() (reply Reply, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			j.log().Error("handler panicked", "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
			reply, err = Reply{}, errPanic
		}
	}()
	return j.handler(&j.ctx, &j.request)
}

// judge turns what the handler returned into the reply to send; nil for none.
func (j *job) judge(reply Reply, err error) *broker.WorkerReply {
	cause := j.ctx.Err()
	if cause != nil {
		cause = context.Cause(&j.ctx)
	}
	if errors.Is(cause, ErrCanceled) {
		j.debug("request ended without this handler")
		return nil
	}
	out := &broker.WorkerReply{ContentType: reply.ContentType, Body: reply.Body, StatusCode: reply.StatusCode, Headers: reply.Headers}
	if err == nil {
		out.Type, out.CacheTTL = "final", cmp.Or(reply.CacheTTL, j.run.services[j.delivery.Service].cacheTTL)
		return out
	}
	out.Type = "failed"
	if r, ok := errors.AsType[*retry](err); ok { // of its code the gateway knows best: whether there is another attempt
		return &broker.WorkerReply{Type: "retry", Delay: r.delay, Error: &broker.Error{Message: r.err.Error()}}
	}
	if f, ok := errors.AsType[*failure](err); ok {
		out.Error = &broker.Error{Code: f.code, Message: f.message}
		return out
	}
	switch {
	case errors.Is(cause, ErrShutdown):
		return giveBack()
	case errors.Is(cause, context.DeadlineExceeded): // the gateway says timed_out, which is the truth
		return nil
	}
	out.Error = &broker.Error{Code: "worker_error", Message: err.Error()}
	return out
}

func giveBack() *broker.WorkerReply {
	return &broker.WorkerReply{Type: "retry", Delay: atOnce, Error: &broker.Error{
		Message: "The worker shut down before it had an answer.",
	}}
}

// answer sends the last reply of the attempt, unless there was one, and ends the job
// once Redis has it or nobody wants it any more. It does not wait for that.
func (j *job) answer(out *broker.WorkerReply) {
	j.mu.Lock()
	before := j.answered
	j.answered = true
	j.seq++
	out.Seq = j.seq
	j.mu.Unlock()
	if before {
		j.run.end(j)
		return
	}
	j.run.broker.Post(j.run.work, j.ctx.deadline.Add(sendMargin), j.delivery, *out, func(err error) {
		if err != nil {
			j.log().Warn("reply was not taken by Redis before the deadline of the request", "type", out.Type, "error", err)
		} else {
			j.debug("request answered", "type", out.Type, "bytes", len(out.Body))
		}
		j.run.end(j)
	})
}

// event sends a progress or partial reply.
func (j *job) event(ctx context.Context, kind, contentType string, body []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.answered {
		return ErrAnswered
	}
	for _, c := range []context.Context{ctx, &j.ctx} {
		if err := context.Cause(c); err != nil {
			return fmt.Errorf("send %s: %w", kind, err)
		}
	}
	ctx, stop := context.WithCancel(ctx) // ends with the request too, whatever context the handler used
	defer stop()
	defer context.AfterFunc(&j.ctx, stop)()
	if err := j.send(ctx, broker.WorkerReply{Type: kind, ContentType: contentType, Body: body}); err != nil {
		return fmt.Errorf("send %s: %w", kind, err)
	}
	return nil
}

// send numbers a reply and sends it. A number whose send failed is not used
// again: Redis may have taken it all the same.
func (j *job) send(ctx context.Context, out broker.WorkerReply) error {
	j.seq++
	out.Seq = j.seq
	return j.run.broker.Send(ctx, j.delivery, out)
}
