package command_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/command"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/steward"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second // for anything that must come

// bench is a worker that answers "run" by a command, and a gateway's parts.
type bench struct {
	*broker.Broker
	t    *testing.T
	log  *buffer
	stop func() // drains the worker and returns once the last process is gone
}

// run answers "run" by a shell script.
func run(t *testing.T, script string, change ...func(*command.Options)) *bench {
	t.Helper()
	return answer(t, []string{"/bin/sh", "-c", script}, change...)
}

func answer(t *testing.T, args []string, change ...func(*command.Options)) *bench {
	t.Helper()
	b := &bench{t: t, log: new(buffer)}
	quiet, url := slog.New(slog.DiscardHandler), redistest.Mini(t)
	var err error
	if b.Broker, err = broker.Open(t.Context(), broker.Options{URL: url, Logger: quiet, Services: map[string]broker.ServiceConfig{"run": {}}}); err != nil {
		t.Fatal(err)
	}
	o := command.Options{Args: args, Logger: slog.New(slog.NewTextHandler(b.log, nil))}
	for _, set := range change {
		set(&o)
	}
	c, err := command.New(o)
	if err != nil {
		t.Fatal(err)
	}
	w := worker.New(url, worker.Logger(quiet), worker.Grace(0), worker.Name("w1"))
	w.Handle("run", c.Handle)
	ctx, end := context.WithCancel(context.Background())
	working, drain := context.WithCancel(context.Background())
	var upkeep, answering sync.WaitGroup
	s := steward.New(b.Broker, quiet)
	upkeep.Go(func() { b.Run(ctx) })
	upkeep.Go(func() { s.Run(ctx) })
	answering.Go(func() { w.Run(working) })
	b.stop = sync.OnceFunc(func() {
		drain()
		answering.Wait()
		c.Wait()
	})
	t.Cleanup(func() {
		b.stop()
		end()
		upkeep.Wait()
		b.Close()
		if t.Failed() {
			t.Logf("the command said:\n%s", b.log)
		}
	})
	return b
}

func (b *bench) submit(body []byte, change ...func(*broker.Submission)) broker.Record {
	b.t.Helper()
	s := broker.Submission{Tenant: broker.DefaultTenant, Service: "run", ContentType: "text/plain", Body: body}
	for _, c := range change {
		c(&s)
	}
	r, _, err := b.Submit(b.t.Context(), s)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// until waits for the record to be as wanted.
func (b *bench) until(r broker.Record, is func(broker.Record) bool) broker.Record {
	b.t.Helper()
	for late := time.Now().Add(patience); time.Now().Before(late); time.Sleep(5 * time.Millisecond) { // between looks at another process
		got, err := b.Reply(b.t.Context(), r.ID)
		if err != nil {
			b.t.Fatal(err)
		}
		if is(got) {
			return got
		}
	}
	b.t.Fatal("nothing came of it")
	return r
}

func (b *bench) outcome(r broker.Record) broker.Record {
	b.t.Helper()
	return b.until(r, func(r broker.Record) bool { return r.Status.Terminal() })
}

// events waits for n of them.
func (b *bench) events(r broker.Record, n int) (all []broker.Event) {
	b.t.Helper()
	b.until(r, func(r broker.Record) bool {
		var err error
		if _, all, _, err = b.Events(b.t.Context(), r.ID, 0); err != nil {
			b.t.Fatal(err)
		}
		return len(all) >= n
	})
	return all
}

// pids waits for the process ids that the command told as progress.
func (b *bench) pids(r broker.Record, n int) (all []int) {
	b.t.Helper()
	for _, e := range b.events(r, n) {
		pid, err := strconv.Atoi(string(e.Body))
		if err != nil {
			b.t.Fatalf("no process id: %s", e.Body)
		}
		all = append(all, pid)
	}
	return all
}

// dead waits for the processes to end. One that nobody reaps has ended too.
func dead(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		for late := time.Now().Add(patience); alive(pid); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(late) {
				t.Errorf("process %d lives on", pid)
				syscall.Kill(pid, syscall.SIGKILL)
				break
			}
		}
	}
}

func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

// TestBytesAreOpaque: what goes in comes out, read or not.
func TestBytesAreOpaque(t *testing.T) {
	t.Parallel()
	b := answer(t, []string{"cat"}, func(o *command.Options) { o.ContentType = "application/x-thing" })
	for _, body := range [][]byte{{}, []byte("hi"), {0, 1, 0xff, '\n', 0}, bytes.Repeat([]byte("0123456789abcdef"), 80<<10)} {
		got := b.outcome(b.submit(body))
		if got.Status != broker.Succeeded || !bytes.Equal(got.Reply.Body, body) || got.Reply.ContentType != "application/x-thing" {
			t.Errorf("%d bytes: %s, %+v", len(body), got.Status, got.Error)
		}
	}
	deaf := run(t, "exec 0<&-; echo done")
	if got := deaf.outcome(deaf.submit(bytes.Repeat([]byte("x"), 1<<20))); got.Status != broker.Succeeded || string(got.Reply.Body) != "done\n" {
		t.Errorf("a program that does not read: %s, %+v", got.Status, got.Error)
	}
}

func TestRequestIsInTheEnvironment(t *testing.T) {
	t.Setenv("COATCHECK_REDIS_URL", "redis://:secret@example.com")
	t.Setenv("TRACEPARENT", "of the worker")
	b := run(t, `env | grep -e ^COATCHECK_ -e ^TRACEPARENT= | sort`)
	trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r := b.submit(nil, func(s *broker.Submission) {
		s.Traceparent = trace
		s.Headers = map[string]string{"x-tenant.id": "a b", "accept-language": "de"}
	})
	want := fmt.Sprintf("COATCHECK_ATTEMPT=1\nCOATCHECK_CONTENT_TYPE=text/plain\nCOATCHECK_CORRELATION_ID=%s\nCOATCHECK_DEADLINE=MS\n"+
		"COATCHECK_HEADER_ACCEPT_LANGUAGE=de\nCOATCHECK_HEADER_X_TENANT_ID=a b\nCOATCHECK_SERVICE=run\nTRACEPARENT=%s\n", r.ID, trace)
	got := b.outcome(r)
	lines := strings.SplitAfter(string(got.Reply.Body), "\n")
	for i, line := range lines {
		if ms, ok := strings.CutPrefix(strings.TrimSpace(line), "COATCHECK_DEADLINE="); ok {
			n, err := strconv.ParseInt(ms, 10, 64)
			if off := time.UnixMilli(n).Sub(got.Deadline); err != nil || off.Abs() > time.Second {
				t.Errorf("deadline %s, %v off", ms, off)
			}
			lines[i] = "COATCHECK_DEADLINE=MS\n"
		}
	}
	if diff := cmp.Diff(want, strings.Join(lines, "")); diff != "" {
		t.Error(diff)
	}
	if got := b.outcome(b.submit(nil)); strings.Contains(string(got.Reply.Body), "TRACEPARENT") {
		t.Errorf("the worker's own trace went to a request that has none: %s", got.Reply.Body)
	}
}

// TestExitCodes: 0 is success, 75 another attempt, the rest failure.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	b := run(t, `cat >/dev/null; echo half of it; echo "first line" >&2; echo "attempt $COATCHECK_ATTEMPT" >&2
		case "$COATCHECK_CONTENT_TYPE" in
		retry) [ $COATCHECK_ATTEMPT -gt 1 ] || exit 75;;
		always) exit 75;;
		signal) kill -9 $$;;
		*) exit $COATCHECK_CONTENT_TYPE;;
		esac`)
	for kind, want := range map[string]broker.Record{
		"0":      {Status: broker.Succeeded, Attempt: 1},
		"retry":  {Status: broker.Succeeded, Attempt: 2},
		"1":      {Status: broker.Failed, Attempt: 1, Reason: "worker", Error: &broker.Error{Code: "exit_1", Message: "The command ended with exit code 1: first line\nattempt 1"}},
		"213":    {Status: broker.Failed, Attempt: 1, Reason: "worker", Error: &broker.Error{Code: "exit_213", Message: "The command ended with exit code 213: first line\nattempt 1"}},
		"signal": {Status: broker.Failed, Attempt: 1, Reason: "worker", Error: &broker.Error{Code: "signal_9", Message: "The command was ended by signal 9 (killed): first line\nattempt 1"}},
	} {
		got := b.outcome(b.submit([]byte("x"), func(s *broker.Submission) { s.ContentType = kind }))
		if got.Status != want.Status || got.Attempt != want.Attempt || got.Reason != want.Reason || cmp.Diff(want.Error, got.Error) != "" {
			t.Errorf("%s: %s %s, attempt %d, %+v", kind, got.Status, got.Reason, got.Attempt, got.Error)
		}
		if (got.Reply != nil) != (want.Status == broker.Succeeded) {
			t.Errorf("%s: half a reply was kept", kind)
		}
	}
	once := func(s *broker.Submission) { s.ContentType, s.Timeout = "always", 15*time.Second }
	got := b.outcome(b.submit(nil, once))
	if got.Status != broker.Failed || got.Reason != "max_attempts" || got.Attempt != 3 || !strings.HasPrefix(got.Error.Message, "The command asked for another attempt: first line") {
		t.Errorf("75 each time: %s %s, attempt %d, %+v", got.Status, got.Reason, got.Attempt, got.Error)
	}
	for _, want := range []string{`msg="the command says"`, `line="attempt 1"`, "correlation_id=" + got.ID.String(), "attempt=3"} {
		if !strings.Contains(b.log.String(), want) {
			t.Errorf("the log does not have %s", want)
		}
	}
}

// TestErrorTailIsBounded: the end of a long complaint, whole lines, whole characters.
func TestErrorTailIsBounded(t *testing.T) {
	t.Parallel()
	b := run(t, `i=0; while [ $i -lt 500 ]; do echo "complaint number $i ü" >&2; i=$((i+1)); done; printf 'the cause' >&2; exit 9`)
	got := b.outcome(b.submit(nil))
	m := got.Error.Message
	if !strings.HasSuffix(m, "complaint number 499 ü\nthe cause") || !strings.HasPrefix(m, "The command ended with exit code 9: complaint number ") || len(m) < 800 || len(m) > 1024 {
		t.Errorf("%d bytes: %s", len(m), m)
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	b := run(t, `echo '{"percent": 50}' >&3; echo half way >&3; echo >&3; printf '\377\n' >&3
		head -c 300000 /dev/zero | tr '\0' x >&3; echo >&3; printf '[1,2]\r\nlast' >&3; echo reply`)
	r := b.submit(nil)
	if got := b.outcome(r); got.Status != broker.Succeeded || string(got.Reply.Body) != "reply\n" {
		t.Fatalf("%s, %+v", got.Status, got.Error)
	}
	var got []string
	for _, e := range b.events(r, 5) {
		got = append(got, fmt.Sprintf("%d %s %s %s", e.Number, e.Type, e.ContentType, e.Body))
	}
	want := []string{
		`1 progress application/json {"percent": 50}`, "2 progress text/plain; charset=utf-8 half way",
		"3 progress application/octet-stream \xff", "4 progress application/json [1,2]", "5 progress text/plain; charset=utf-8 last",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(b.log.String(), "too long") {
		t.Error("the line that was left out is not in the log")
	}
}

// TestManyEvents: what is still in the pipe when the program ends is not lost.
func TestManyEvents(t *testing.T) {
	t.Parallel()
	b := run(t, `i=0; while [ $i -lt 400 ]; do echo $i >&3; i=$((i+1)); done`)
	r := b.submit(nil)
	b.outcome(r)
	got, _, _, err := b.Events(t.Context(), r.ID, 300)
	if err != nil || got.Events != 401 {
		t.Errorf("%d events, %v", got.Events, err)
	}
}

// stopping is a script with a child, and a child of that.
const stopping = `sleep 1000 & echo $! >&3; (sleep 1000 & echo $! >&3; wait) & echo $$ >&3; wait`

func TestCancelKillsTheGroup(t *testing.T) {
	t.Parallel()
	b := run(t, stopping)
	r := b.submit(nil)
	pids := b.pids(r, 3)
	if _, err := b.Cancel(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	dead(t, pids...)
}

func TestTimeoutKillsTheGroup(t *testing.T) {
	t.Parallel()
	b := run(t, stopping)
	for _, set := range []func(*broker.Submission, time.Duration){
		func(s *broker.Submission, d time.Duration) { s.Timeout = d },
		func(s *broker.Submission, d time.Duration) { s.RunTimeout = d },
	} {
		// On a busy machine the time may be over before the command has begun.
		for d := 2 * time.Second; ; d *= 2 {
			r := b.submit(nil, func(s *broker.Submission) { set(s, d) })
			if got := b.outcome(r); got.Status != broker.TimedOut {
				t.Fatalf("%s, %+v", got.Status, got.Error)
			} else if got.Events < 4 && d < patience {
				continue
			}
			dead(t, b.pids(r, 3)...)
			break
		}
	}
}

// TestWhoIgnoresTheSignalIsKilled, leader and child.
func TestWhoIgnoresTheSignalIsKilled(t *testing.T) {
	t.Parallel()
	b := run(t, `trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo $! >&3; echo $$ >&3; while :; do sleep 1; done`,
		func(o *command.Options) { o.KillAfter = 200 * time.Millisecond })
	r := b.submit(nil)
	pids := b.pids(r, 2)
	if _, err := b.Cancel(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	dead(t, pids...)
	if !strings.Contains(b.log.String(), "did not stop; it is killed") {
		t.Error("nobody said that it had to be killed")
	}
}

// TestShutdownGivesBack, and waits for the process: nothing lives on. An exit
// code 0 after SIGTERM is no reply.
func TestShutdownGivesBack(t *testing.T) {
	t.Parallel()
	b := run(t, `trap 'echo half; exit 0' TERM; sleep 1000 & echo $! >&3; echo $$ >&3; wait`)
	r := b.submit(nil)
	pids := b.pids(r, 2)
	b.stop()
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d lives on", pid)
		}
	}
	got := b.until(r, func(r broker.Record) bool { return r.Attempt == 2 })
	if got.Status != broker.Queued {
		t.Errorf("%s, %+v", got.Status, got.Reply)
	}
}

// TestShutdownWaitsForTheLast: one that takes longer to stop than the worker waits
// for its handler.
func TestShutdownWaitsForTheLast(t *testing.T) {
	t.Parallel()
	b := run(t, `trap '' TERM; echo $$ >&3; while :; do sleep 1; done`, func(o *command.Options) { o.KillAfter = 3 * time.Second })
	r := b.submit(nil)
	pids := b.pids(r, 1)
	b.stop()
	if alive(pids[0]) {
		t.Error("it lives on")
		dead(t, pids...)
	}
	b.until(r, func(r broker.Record) bool { return r.Status == broker.Queued && r.Attempt == 2 })
}

// TestNothingIsLeftBehind: a child that outlives its parent is killed, and does
// not hold up the reply, whether it holds the output or not.
func TestNothingIsLeftBehind(t *testing.T) {
	t.Parallel()
	for name, redirect := range map[string]string{"holds the output": "", "holds nothing": ">/dev/null 2>&1 3>&-"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := run(t, `sleep 1000 `+redirect+` & echo $! >&3; echo reply`)
			r := b.submit(nil)
			if got := b.outcome(r); got.Status != broker.Succeeded || string(got.Reply.Body) != "reply\n" {
				t.Errorf("%s, %+v", got.Status, got.Error)
			}
			dead(t, b.pids(r, 1)...)
		})
	}
}

// TestOneOutOfReachHoldsNothingUp: a child with a session of its own.
func TestOneOutOfReachHoldsNothingUp(t *testing.T) {
	t.Parallel()
	b := run(t, `setsid sleep 1000 & echo $! >&3; echo reply`)
	r := b.submit(nil)
	if got := b.outcome(r); got.Status != broker.Succeeded || string(got.Reply.Body) != "reply\n" {
		t.Errorf("%s, %+v", got.Status, got.Error)
	}
	for _, pid := range b.pids(r, 1) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

func TestReplyIsBounded(t *testing.T) {
	t.Parallel()
	limit := func(o *command.Options) { o.MaxReply = 1000 }
	b := run(t, `cat; [ "$COATCHECK_CONTENT_TYPE" = text/plain ] || exec cat /dev/zero`, limit)
	if got := b.outcome(b.submit(make([]byte, 1000))); got.Status != broker.Succeeded || got.Reply.Size != 1000 {
		t.Errorf("as large as may be: %s, %+v", got.Status, got.Error)
	}
	for _, endless := range []string{"text/plain", "endless"} {
		got := b.outcome(b.submit(make([]byte, 1001), func(s *broker.Submission) { s.ContentType = endless }))
		if got.Status != broker.Failed || got.Error.Code != "reply_too_large" {
			t.Errorf("%s: %s, %+v", endless, got.Status, got.Error)
		}
	}
}

func TestCommandThatIsNotThere(t *testing.T) {
	t.Parallel()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{nil, {""}, {"no-such-command-anywhere"}, {"./no/such/file"}, {plain}, {t.TempDir()}} {
		if _, err := command.New(command.Options{Args: args}); err == nil {
			t.Errorf("%q can be run", args)
		}
	}
}

// TestCommandThatVanished: another attempt may meet it again.
func TestCommandThatVanished(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "script")
	install := func() {
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho here again\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	install()
	b := answer(t, []string{path})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r := b.submit(nil)
	b.until(r, func(r broker.Record) bool { return r.Attempt == 2 })
	install()
	if got := b.outcome(r); got.Status != broker.Succeeded || string(got.Reply.Body) != "here again\n" {
		t.Errorf("%s, %+v", got.Status, got.Error)
	}
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
