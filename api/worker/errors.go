package worker

import (
	"errors"
	"fmt"
	"time"
)

// Causes with which the context of a handler ends, beside
// context.DeadlineExceeded for the timeout of the request.
var (
	// ErrCanceled says that the request has an outcome without this handler: the
	// client canceled it, or its run timeout passed. Nothing is sent for it.
	ErrCanceled = errors.New("request was canceled")
	// ErrShutdown says that the worker ends and the grace is over. The request
	// is given to another worker unless the handler returns a reply all the same.
	ErrShutdown = errors.New("worker is shutting down")
)

// ErrAnswered is returned by Progress and Partial once the request was answered
// or given back.
var ErrAnswered = errors.New("request was answered already")

// Retry has the request tried again after delay, for the reason err, by any
// worker of the service; after its last attempt it fails. A delay of 0 lets the
// gateway choose one that grows with the attempts; up to 1 ms means at once.
func Retry(err error, delay time.Duration) error {
	if err == nil {
		err = errors.New("the worker asked for another attempt")
	}
	return &retry{err, max(delay, 0)}
}

// Fail ends the request as failed, with a code and a message for the client.
// A plain error does the same with the code "worker_error".
func Fail(code, message string) error { return &failure{code, message} }

type retry struct {
	err   error
	delay time.Duration
}

func (r *retry) Error() string { return fmt.Sprintf("try again: %v", r.err) }
func (r *retry) Unwrap() error { return r.err }

type failure struct{ code, message string }

func (f *failure) Error() string { return f.code + ": " + f.message }
