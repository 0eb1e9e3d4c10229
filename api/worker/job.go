package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/loop"
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
	log      *slog.Logger

	ctx    context.Context         // the handler's
	cancel context.CancelCauseFunc // ends it with a cause; the first cause stays
	forget context.CancelFunc      // frees its timer
	ended  time.Time               // the deadline, by our clock

	mu       sync.Mutex // guards the rest, and keeps replies in order: seq is theirs
	seq      int
	answered bool
}

func (r *run) newJob(d broker.Delivery, h Handler) *job {
	j := &job{
		run: r, delivery: d, handler: h, ended: r.clock.local(d.Deadline),
		log: r.log.With("correlation_id", d.ID, "service", d.Service, "attempt", d.Attempt),
	}
	ctx, cancel := context.WithCancelCause(r.work)
	j.cancel = cancel
	j.ctx, j.forget = context.WithDeadline(ctx, j.ended)
	for i := len(r.chain) - 1; i >= 0; i-- {
		j.handler = r.chain[i](j.handler)
	}
	return j
}

// errPanic is what the client reads of a handler that did not return.
var errPanic = Fail("panic", "The worker's handler panicked.")

// work calls the handler and sends what it answered.
func (j *job) work() {
	defer j.forget()
	defer j.cancel(nil)
	stop := j.beat()
	var reply Reply
	err := errPanic
	defer func() { // deferred for the sake of a handler that calls runtime.Goexit
		stop() // a heartbeat after the reply would count as late
		if out := j.judge(reply, err); out != nil {
			j.answer(*out)
		}
	}()
	reply, err = j.call()
}

// call runs the handler and turns a panic into an error.
func (j *job) call() (reply Reply, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			j.log.Error("handler panicked", "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
			reply, err = Reply{}, errPanic
		}
	}()
	d := j.delivery
	return j.handler(j.ctx, &Request{
		ID: d.ID, Attempt: d.Attempt, Service: d.Service, Deadline: j.ended, ContentType: d.ContentType,
		Headers: d.Headers, Traceparent: d.Traceparent, Body: d.Body, job: j,
	})
}

// beat renews the lease every third of it until stop, which waits.
func (j *job) beat() (stop func()) {
	every := j.delivery.Lease / 3
	if h := j.run.options.heartbeat; h > 0 && (every <= 0 || h < every) {
		every = h
	}
	if every <= 0 {
		every = defaultLease / 3
	}
	ctx, cancel := context.WithCancel(j.ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for loop.Rest(ctx, every) {
			if err := j.run.broker.Send(ctx, j.delivery, broker.WorkerReply{Type: "heartbeat"}); err != nil && ctx.Err() == nil {
				j.log.Warn("heartbeat was not sent", "error", err)
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// judge turns what the handler returned into the reply to send; nil for none.
func (j *job) judge(reply Reply, err error) *broker.WorkerReply {
	cause := context.Cause(j.ctx)
	if errors.Is(cause, ErrCanceled) {
		j.log.Debug("request ended without this handler")
		return nil
	}
	out := broker.WorkerReply{ContentType: reply.ContentType, Body: reply.Body, StatusCode: reply.StatusCode, Headers: reply.Headers}
	if err == nil {
		out.Type, out.CacheTTL = "final", cmp.Or(reply.CacheTTL, j.run.services[j.delivery.Service].cacheTTL)
		return &out
	}
	out.Type = "failed"
	if r, ok := errors.AsType[*retry](err); ok { // of its code the gateway knows best: whether there is another attempt
		return &broker.WorkerReply{Type: "retry", Delay: r.delay, Error: &broker.Error{Message: r.err.Error()}}
	}
	if f, ok := errors.AsType[*failure](err); ok {
		out.Error = &broker.Error{Code: f.code, Message: f.message}
		return &out
	}
	switch {
	case errors.Is(cause, ErrShutdown):
		return giveBack()
	case errors.Is(cause, context.DeadlineExceeded): // the gateway says timed_out, which is the truth
		return nil
	}
	out.Error = &broker.Error{Code: "worker_error", Message: err.Error()}
	return &out
}

func giveBack() *broker.WorkerReply {
	return &broker.WorkerReply{Type: "retry", Delay: atOnce, Error: &broker.Error{
		Message: "The worker shut down before it had an answer.",
	}}
}

// answer sends the last reply of the attempt, unless there was one.
func (j *job) answer(out broker.WorkerReply) {
	ctx, stop := context.WithDeadline(j.run.work, j.ended.Add(sendMargin))
	defer stop()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.answered {
		return
	}
	if err := j.send(ctx, out); err != nil {
		j.log.Warn("reply was not taken by Redis before the deadline of the request", "type", out.Type, "error", err)
		return
	}
	j.answered = true
	j.log.Debug("request answered", "type", out.Type, "bytes", len(out.Body))
}

// event sends a progress or partial reply.
func (j *job) event(ctx context.Context, kind, contentType string, body []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.answered {
		return ErrAnswered
	}
	for _, c := range []context.Context{ctx, j.ctx} {
		if err := context.Cause(c); err != nil {
			return fmt.Errorf("send %s: %w", kind, err)
		}
	}
	ctx, stop := context.WithCancel(ctx) // ends with the request too, whatever context the handler used
	defer stop()
	defer context.AfterFunc(j.ctx, stop)()
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
