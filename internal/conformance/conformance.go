// Package conformance runs any worker through its duties, whatever language it
// is in and however it gets its work, by submitting requests to its service
// through a gateway:
//
//	results, err := conformance.Run(ctx, conformance.Options{
//		URL: "http://127.0.0.1:8080", Service: "shout",
//		Start:  "python3 worker.py shout",                     // or "": it runs already
//		Report: func(r conformance.Result) { fmt.Println(r) }, // as they come
//	})
//
// The worker's handler does what a request asks for: api/worker/README.md has
// the few words of that. A duty is defined by what a client can see, so that it
// is the same for a worker on Redis, one on HTTP, and a backend.
//
// What ends or stops the worker needs a worker that Run started. What did not run
// is said to have not run, never to have passed.
//
// Pitfalls. The service must be for the run alone: other workers of it would
// answer instead, and other requests would be in the way.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

// DefaultPatience is how long anything may take that a worker does at once.
const DefaultPatience = 20 * time.Second

const (
	startWait = 20 * time.Second // at least, for the first reply of a worker that is started
	tidyWait  = 5 * time.Second  // for the gateway to cancel what a duty left open
)

// Options of Run. URL and Service are required.
type Options struct {
	URL     string // of the gateway
	APIKey  string // with the scopes submit, read, cancel and work; "" for none
	Service string

	Start    string        // shell command that starts the worker; "" where it runs already
	Output   io.Writer     // what that worker says; nil for nowhere
	Patience time.Duration // default DefaultPatience

	Only   []string     // duties to run; nil for all
	Skip   []string     // duties not to run
	Report func(Result) // of each result as it comes; nil for none
}

// Verdict is how a duty went.
type Verdict string

// The verdicts. Skipped is everything that did not run, for whatever reason.
const (
	Passed  Verdict = "passed"
	Failed  Verdict = "failed"
	Skipped Verdict = "not_run"
)

// Result is what was seen of one duty.
type Result struct {
	Duty     string  `json:"duty"`
	Means    string  `json:"means"`
	Verdict  Verdict `json:"verdict"`
	Expected string  `json:"expected,omitempty"` // where it failed
	Seen     string  `json:"seen,omitempty"`     // where it failed
	Why      string  `json:"why,omitempty"`      // where it did not run
	Seconds  float64 `json:"seconds"`
}

// String is one line of a table, and two more where the duty failed.
func (r Result) String() string {
	mark := map[Verdict]string{Passed: "✓", Failed: "✗", Skipped: "–"}[r.Verdict]
	line := fmt.Sprintf("%s %-10s %5.1fs  %s", mark, r.Duty, r.Seconds, r.Means)
	switch r.Verdict {
	case Failed:
		line += fmt.Sprintf("\n    expected: %s\n    seen:     %s", r.Expected, r.Seen)
	case Skipped:
		line = fmt.Sprintf("%s %-10s         not run: %s", mark, r.Duty, r.Why)
	}
	return line
}

// wrong is what a worker did against its duty.
type wrong struct{ expected, seen string }

func (w wrong) Error() string { return "expected " + w.expected + ", seen " + w.seen }

// notRun says why a duty did not run.
type notRun string

func (n notRun) Error() string { return string(n) }

// ErrNoWorker says that nothing answered the service.
var ErrNoWorker = errors.New("no worker answers")

// Duties are the names of all duties, in the order in which they run.
func Duties() (names []string) {
	for _, d := range duties {
		names = append(names, d.name)
	}
	return names
}

// Check finds duties that there are none of.
func (o Options) Check() error {
	for _, name := range slices.Concat(o.Only, o.Skip) {
		if !slices.Contains(Duties(), name) {
			return fmt.Errorf("there is no duty %q: want %s", name, strings.Join(Duties(), ", "))
		}
	}
	return nil
}

// Run runs the duties. An error says that the run as a whole could not be made;
// that a duty failed is in the results.
func Run(ctx context.Context, o Options) (results []Result, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Patience <= 0 {
		o.Patience = DefaultPatience
	}
	r := &run{Options: o, client: client.New(o.URL, client.APIKey(o.APIKey))}
	defer r.end()
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	for _, d := range duties {
		if o.Only != nil && !slices.Contains(o.Only, d.name) {
			continue
		}
		result := r.judge(ctx, d)
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
		results = append(results, result)
		if o.Report != nil {
			o.Report(result)
		}
	}
	return results, nil
}

// run is one call of Run.
type run struct {
	Options
	client *client.Client
	worker *process      // nil where it is not ours
	lease  time.Duration // for which a silent worker keeps a request
	open   []string      // IDs of requests that may have no outcome yet
}

// begin starts the worker where that is asked for, and waits for its first reply.
func (r *run) begin(ctx context.Context) error {
	if r.Start != "" {
		worker, err := start(r.Start, r.Output)
		if err != nil {
			return err
		}
		r.worker = worker
	}
	if err := r.answers(ctx); err != nil {
		return err
	}
	return r.askLease(ctx)
}

// answers waits until the worker answers a request.
func (r *run) answers(ctx context.Context) error {
	within := r.Patience
	if r.Start != "" {
		within = max(within, startWait)
	}
	ctx, stop := context.WithTimeout(ctx, within)
	defer stop()
	for {
		s, err := r.client.Submit(ctx, r.Service, client.Request{ContentType: binary, Body: []byte("is anybody there?")})
		if p, unknown := errors.AsType[api.Problem](err); unknown && p.Type == api.ProblemPath+"unknown-service" && !r.gone() && rest(ctx, glance) {
			continue
		}
		if err == nil {
			r.open = append(r.open, s.CorrelationID)
			s, err = r.client.Wait(ctx, s.CorrelationID)
		}
		switch {
		case r.gone():
			return errors.New("the worker ended before it answered anything")
		case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
			return fmt.Errorf("%w the service %s within %v: is it started, for this service, on the Redis of this gateway?", ErrNoWorker, r.Service, within)
		case err != nil:
			return err
		case s.Status != api.Succeeded:
			return fmt.Errorf("the worker of %s answered a request that it should give back with %s (%s): the handler does not do what a conformance run asks for", r.Service, s.Status, s.Error.Message)
		}
		return nil
	}
}

// gone tells that a worker of ours has ended.
func (r *run) gone() bool { return r.worker != nil && r.worker.ended(0) }

// judge runs one duty.
func (r *run) judge(ctx context.Context, d duty) Result {
	began := time.Now()
	result := Result{Duty: d.name, Means: d.means, Verdict: Passed}
	var err error
	switch {
	case slices.Contains(r.Skip, d.name):
		err = notRun("it was asked to be left out")
	case d.owned && r.worker == nil:
		err = notRun("it needs a worker that this run starts (--start)")
	default:
		err = d.do(r, ctx)
	}
	result.Seconds = float64(time.Since(began).Milliseconds()) / 1000
	if why, ok := errors.AsType[notRun](err); ok {
		result.Verdict, result.Why = Skipped, string(why)
	} else if w, ok := errors.AsType[wrong](err); ok {
		result.Verdict, result.Expected, result.Seen = Failed, w.expected, w.seen
	} else if err != nil {
		result.Verdict, result.Expected, result.Seen = Failed, "that the gateway takes every call of this run", err.Error()
	}
	r.tidy(ctx, result.Verdict == Failed)
	return result
}

// tidy cancels what a duty left open. A worker that failed at one may be busy
// with it: where it is ours, the next duty gets a fresh one.
func (r *run) tidy(ctx context.Context, failed bool) {
	over, stop := context.WithTimeout(context.WithoutCancel(ctx), tidyWait)
	defer stop()
	for _, id := range r.open {
		_, _ = r.client.Cancel(over, id) // it has an outcome, or the gateway is away: the next duty will tell
	}
	r.open = nil
	if failed && r.worker != nil && ctx.Err() == nil {
		if err := r.restart(ctx); err != nil && r.Output != nil {
			fmt.Fprintln(r.Output, err)
		}
	}
}

// end leaves neither requests nor a worker behind.
func (r *run) end() {
	r.tidy(context.Background(), false)
	if r.worker != nil {
		r.worker.kill()
	}
}

// restart ends the worker, if it still runs, and starts it anew.
func (r *run) restart(ctx context.Context) error {
	r.worker.kill()
	worker, err := start(r.Start, r.Output)
	if err != nil {
		return err
	}
	r.worker = worker
	return r.answers(ctx)
}
