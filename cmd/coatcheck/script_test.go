package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/coatcheck/coatcheck/internal/config"
)

// The commands of the scripts. None sleeps: each waits for what it is about,
// and gives up after patience.
//
//	exits CODE LIMIT COMMAND…   run it; it must exit with CODE within LIMIT
//	spawn NAME COMMAND…         run it beside the script, until the script ends
//	saw NAME REGEXP [VARIABLE]  wait for its output; the first group becomes VARIABLE
//	! saw NAME REGEXP           it has not said that until now
//	signal NAME TERM|KILL|INT   send it a signal
//	ended NAME CODE [LIMIT]     wait for its end (25s): CODE is its exit code, or "killed"
//	hold ADDRESS                listen there, unless somebody does already
//	http CODE METHOD URL [HEADER:VALUE…] [~REGEXP] [BODY]
//	                            ask until it answers with CODE, and REGEXP in the answer, which is stdout
//	configure FILE KEY…         write a configuration with these API keys
//	killredis DIRECTORY         kill -9 the redis-server of a data directory
//	gone PID                    wait for the end of a process that is not ours
const patience = 20 * time.Second

type scriptKey struct{}

// script is what one script has running.
type script struct {
	running map[string]*background
	held    []net.Listener
}

func of(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

func (s *script) end() {
	for _, b := range s.running {
		b.cmd.Process.Kill()
		<-b.over
	}
	for _, l := range s.held {
		l.Close()
	}
}

// background is a process and all that it said.
type background struct {
	cmd  *exec.Cmd
	over chan struct{} // closed when it ended

	mu   sync.Mutex // guards text and more
	text bytes.Buffer
	more chan struct{} // closed at the next write, then another
}

func (b *background) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Write(p)
	close(b.more)
	b.more = make(chan struct{})
	return len(p), nil
}

func (b *background) said() (string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String(), b.more
}

func named(ts *testscript.TestScript, name string) *background {
	b := of(ts).running[name]
	if b == nil {
		ts.Fatalf("nothing was spawned as %s", name)
	}
	return b
}

func arguments(ts *testscript.TestScript, neg bool, args []string, least int) {
	if neg || len(args) < least {
		ts.Fatalf("wrong use; see script_test.go")
	}
}

func duration(ts *testscript.TestScript, text string) time.Duration {
	d, err := time.ParseDuration(text)
	ts.Check(err)
	return d
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3)
	began := time.Now()
	err := ts.Exec(args[2], args[3:]...)
	took := time.Since(began)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
	if limit := duration(ts, args[1]); took > limit {
		ts.Fatalf("took %v, want at most %v", took, limit)
	}
}

func spawn(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2)
	path, err := lookPath(ts, args[1])
	ts.Check(err)
	b := &background{cmd: exec.Command(path, args[2:]...), over: make(chan struct{}), more: make(chan struct{})}
	b.cmd.Dir, b.cmd.Stdout, b.cmd.Stderr = ts.MkAbs("."), b, b
	for _, name := range variables() {
		if value := ts.Getenv(name); value != "" {
			b.cmd.Env = append(b.cmd.Env, name+"="+value)
		}
	}
	ts.Check(b.cmd.Start())
	of(ts).running[args[0]] = b
	go func() {
		b.cmd.Wait() // its state has the exit code
		close(b.over)
	}()
}

func lookPath(ts *testscript.TestScript, name string) (string, error) {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if path := filepath.Join(dir, name); !isDirectory(path) {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err != nil || info.IsDir()
}

// variables are what a script may set for what it spawns.
func variables() []string {
	names := []string{"PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "GOCOVERDIR", "COATCHECK_CONFIG", "COATCHECK_URL", "COATCHECK_API_KEY"}
	for _, f := range config.Fields() {
		names = append(names, f.Env)
		if f.Secret {
			names = append(names, f.Env+"_FILE")
		}
	}
	return names
}

func saw(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, false, args, 2)
	b, pattern := named(ts, args[0]), regexp.MustCompile("(?m)"+args[1])
	over := b.over
	for late := time.After(patience); ; {
		text, more := b.said()
		found := pattern.FindStringSubmatch(text)
		switch {
		case neg && found != nil:
			ts.Fatalf("%s said %q:\n%s", args[0], found[0], text)
		case neg:
			return
		case found != nil && len(args) > 2:
			ts.Setenv(args[2], found[1])
			return
		case found != nil:
			return
		}
		select {
		case <-more:
		case <-over:
			over = nil // look once more at what it said last
			if last, _ := b.said(); last == text {
				ts.Fatalf("%s ended without saying %s:\n%s", args[0], args[1], text)
			}
		case <-late:
			ts.Fatalf("%s does not say %s:\n%s", args[0], args[1], text)
		}
	}
}

func signalTo(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2)
	signals := map[string]os.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "INT": syscall.SIGINT}
	if signals[args[1]] == nil {
		ts.Fatalf("no signal %s", args[1])
	}
	ts.Check(named(ts, args[0]).cmd.Process.Signal(signals[args[1]]))
}

func ended(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2)
	b, limit := named(ts, args[0]), 25*time.Second
	if len(args) > 2 {
		limit = duration(ts, args[2])
	}
	text := func() string { s, _ := b.said(); return s }
	select {
	case <-b.over:
	case <-time.After(limit):
		ts.Fatalf("%s still runs after %v:\n%s", args[0], limit, text())
	}
	state := b.cmd.ProcessState
	got := strconv.Itoa(state.ExitCode())
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		got = status.Signal().String()
	}
	if got != args[1] {
		ts.Fatalf("%s ended with %s, want %s:\n%s", args[0], got, args[1], text())
	}
	ts.Logf("[%s]\n%s", args[0], text())
	delete(of(ts).running, args[0])
}

func hold(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1)
	l, err := net.Listen("tcp", args[0])
	if errors.Is(err, syscall.EADDRINUSE) {
		return
	}
	ts.Check(err)
	of(ts).held = append(of(ts).held, l)
}

func call(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3)
	var body string
	pattern := regexp.MustCompile("")
	header := http.Header{}
	for _, arg := range args[3:] {
		if text, ok := strings.CutPrefix(arg, "~"); ok {
			pattern = regexp.MustCompile(text)
		} else if name, value, ok := strings.Cut(arg, ":"); ok && !strings.HasPrefix(arg, "{") {
			header.Set(name, strings.TrimSpace(value))
		} else {
			body = arg
		}
	}
	var said string
	for late, tick := time.After(patience), time.NewTicker(20*time.Millisecond); ; {
		code, text, err := once(args[1], args[2], header, body)
		if err == nil && strconv.Itoa(code) == args[0] && pattern.MatchString(text) {
			_, err := io.WriteString(ts.Stdout(), text)
			ts.Check(err)
			return
		}
		said = strconv.Itoa(code) + " " + text
		if err != nil {
			said = err.Error()
		}
		select {
		case <-tick.C:
		case <-late:
			ts.Fatalf("%s %s: %s", args[1], args[2], said)
		}
	}
}

func once(method, url string, header http.Header, body string) (code int, text string, err error) {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header = header.Clone()
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	return response.StatusCode, string(raw), err
}

// configure is here because testscript expands no variables in files.
func configure(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2)
	text := "services: {keyed: {}}\nauth:\n  keys:\n    - " + strings.Join(args[1:], "\n    - ") + "\n"
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// killRedis finds the process by its socket, and asks nobody.
func killRedis(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1)
	c, err := net.Dial("unix", filepath.Join(ts.MkAbs(args[0]), "redis.sock"))
	ts.Check(err)
	defer c.Close()
	_, err = io.WriteString(c, "INFO server\r\nQUIT\r\n")
	ts.Check(err)
	info, err := io.ReadAll(c)
	ts.Check(err)
	lines := strings.Fields(string(info))
	n := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "process_id:") })
	if n < 0 {
		ts.Fatalf("no process id in %s", info)
	}
	pid, err := strconv.Atoi(strings.TrimPrefix(lines[n], "process_id:"))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
}

// gone takes a process that nobody reaps for ended.
func gone(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1)
	pid, err := strconv.Atoi(args[0])
	ts.Check(err)
	for late, tick := time.After(patience), time.NewTicker(20*time.Millisecond); ; {
		stat, err := os.ReadFile(filepath.Join("/proc", args[0], "stat"))
		if syscall.Kill(pid, 0) != nil || err == nil && strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			ts.Fatalf("process %d still runs: %s", pid, stat)
		}
	}
}
