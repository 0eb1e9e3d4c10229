// Package demo has the services that a newcomer meets first. They show each
// thing that a worker can do, and nothing else:
//
//	w := worker.New(redisURL)
//	demo.Register(w)
//	err := w.Run(ctx)
//
// An empty body stands for the values that each service documents. Anything
// that it does not understand is a failure with the code "invalid_input", which
// says what it does understand.
package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/coatcheck/coatcheck/api/worker"
)

// Bounds of what a request may ask for: these are for trying things out.
const (
	maxPause     = 10 * time.Minute
	maxSteps     = 1000
	maxFailTimes = 100

	flakyDelay = 500 * time.Millisecond // short enough to watch
)

// Services are the names of all demo services, in the order of the README.
var Services = []string{"echo", "upper", "sleep", "progress", "flaky", "fail"}

// Register has w answer all demo services.
func Register(w *worker.Worker) {
	w.Handle("echo", echo, worker.Describe("Gives the body back, with its content type.", "", ""))
	w.Handle("upper", upper, worker.Describe("Gives text back in upper case.", "", ""))
	w.Handle("sleep", sleep, worker.Describe("Replies after a while.",
		`{"type":"object","properties":{"for":{"type":"string","description":"A duration","examples":["2s"]}}}`, ""))
	w.Handle("progress", progress, worker.Describe("Reports each of its steps.",
		`{"type":"object","properties":{"steps":{"type":"integer","minimum":1,"maximum":1000},"interval":{"type":"string","examples":["200ms"]}}}`,
		`{"type":"object","required":["steps"],"properties":{"steps":{"type":"integer"}}}`))
	w.Handle("flaky", flaky, worker.Describe("Asks for another attempt a few times before it replies.", "", ""))
	w.Handle("fail", fail, worker.Describe("Fails as it is told to.", "", ""))
}

// echo gives the body back, with its content type.
func echo(_ context.Context, r *worker.Request) (worker.Reply, error) {
	return worker.Reply{ContentType: r.ContentType, Body: r.Body}, nil
}

// upper gives the body back in upper case.
func upper(_ context.Context, r *worker.Request) (worker.Reply, error) {
	if !utf8.Valid(r.Body) {
		return worker.Reply{}, invalid("upper wants text in UTF-8")
	}
	return worker.Reply{ContentType: r.ContentType, Body: bytes.ToUpper(r.Body)}, nil
}

// sleep replies after a while.
func sleep(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	in := struct {
		For duration `json:"for"`
	}{duration(2 * time.Second)}
	if err := read(r, &in, `{"for":"2s"}`); err != nil {
		return worker.Reply{}, err
	}
	if err := pause(ctx, in.For); err != nil {
		return worker.Reply{}, err
	}
	return reply(map[string]any{"slept": time.Duration(in.For).String()})
}

// progress takes steps, and tells after each how far it is.
func progress(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	in := struct {
		Steps    int      `json:"steps"`
		Interval duration `json:"interval"`
	}{5, duration(200 * time.Millisecond)}
	if err := read(r, &in, `{"steps":5,"interval":"200ms"}`); err != nil {
		return worker.Reply{}, err
	}
	if in.Steps < 1 || in.Steps > maxSteps {
		return worker.Reply{}, invalid("steps: %d is outside 1..%d", in.Steps, maxSteps)
	}
	for step := 1; step <= in.Steps; step++ {
		if err := pause(ctx, in.Interval); err != nil {
			return worker.Reply{}, err
		}
		if err := r.Progress(ctx, stepped{100 * step / in.Steps, step, in.Steps}); err != nil {
			return worker.Reply{}, err
		}
	}
	return reply(map[string]any{"steps": in.Steps})
}

type stepped struct {
	Percent int `json:"percent"`
	Step    int `json:"step"`
	Steps   int `json:"steps"`
}

// flaky asks for another attempt a number of times, then succeeds.
func flaky(_ context.Context, r *worker.Request) (worker.Reply, error) {
	in := struct {
		FailTimes int `json:"fail_times"`
	}{2}
	if err := read(r, &in, `{"fail_times":2}`); err != nil {
		return worker.Reply{}, err
	}
	if in.FailTimes < 0 || in.FailTimes > maxFailTimes {
		return worker.Reply{}, invalid("fail_times: %d is outside 0..%d", in.FailTimes, maxFailTimes)
	}
	if r.Attempt <= in.FailTimes {
		return worker.Reply{}, worker.Retry(fmt.Errorf("attempt %d fails on purpose", r.Attempt), flakyDelay)
	}
	return reply(map[string]any{"attempts": r.Attempt})
}

// fail fails with the message that it is given.
func fail(_ context.Context, r *worker.Request) (worker.Reply, error) {
	in := struct {
		Message string `json:"message"`
	}{"failed on purpose"}
	if err := read(r, &in, `{"message":"…"}`); err != nil {
		return worker.Reply{}, err
	}
	if in.Message == "" {
		return worker.Reply{}, invalid("message: is empty")
	}
	return worker.Reply{}, errors.New(in.Message)
}

// read decodes the body of r over what in holds; an empty body leaves it.
func read(r *worker.Request, in any, like string) error {
	if len(bytes.TrimSpace(r.Body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(r.Body))
	d.DisallowUnknownFields()
	if err := d.Decode(in); err != nil {
		return invalid("%s wants a JSON body like %s: %v", r.Service, like, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return invalid("%s wants one JSON object like %s and nothing after it", r.Service, like)
	}
	return nil
}

func reply(v any) (worker.Reply, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return worker.Reply{}, fmt.Errorf("encode the reply: %w", err)
	}
	return worker.Reply{ContentType: "application/json", Body: body}, nil
}

func invalid(format string, args ...any) error {
	return worker.Fail("invalid_input", fmt.Sprintf(format, args...))
}

// duration is a JSON string like "200ms", between 0 and maxPause.
type duration time.Duration

func (d *duration) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return fmt.Errorf(`%s is not a duration like "200ms"`, b)
	}
	v, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf(`%q is not a duration like "200ms"`, text)
	}
	if v < 0 || v > maxPause {
		return fmt.Errorf("%q is outside 0s..%v", text, maxPause)
	}
	*d = duration(v)
	return nil
}

// pause waits, or returns why the request is not wanted any more.
func pause(ctx context.Context, d duration) error {
	t := time.NewTimer(time.Duration(d))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
