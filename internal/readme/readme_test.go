// Package readme_test does what the README says, word for word, and compares
// what comes out: a first minute that does not work is the worst defect there
// is.
package readme_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/redistest"
)

const patience = 30 * time.Second // for anything that must come

// section is what stands between two marks of the README.
func section(t *testing.T, from, to string) string {
	t.Helper()
	return sectionOf(t, "README.md", from, to)
}

func sectionOf(t *testing.T, page, from, to string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../..", page))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(raw), from)
	text, _, ended := strings.Cut(rest, to)
	if !found || !ended {
		t.Fatalf("%s has no part from %q to %q", page, from, to)
	}
	return text
}

// binary builds coatcheck once a test.
func binary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "coatcheck")
	if out, err := exec.Command("go", "build", "-o", path, "../../cmd/coatcheck").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// run starts a process, ends it with the test, and waits until its gateway
// answers.
func run(t *testing.T, addr, path string, args ...string) {
	t.Helper()
	c := exec.Command(path, args...)
	c.Dir = t.TempDir()
	c.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+c.Dir, "COATCHECK_DRAIN_DELAY=0s")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(syscall.SIGTERM)
		c.Wait()
	})
	ready(t, "http://"+addr+"/readyz")
}

// ready waits for a 200.
func ready(t *testing.T, url string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		answer, err := http.Get(url)
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", url, err)
		}
		time.Sleep(20 * time.Millisecond) // between looks at another process
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

var (
	uuids = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)
	ports = regexp.MustCompile(`(localhost|127\.0\.0\.1):8080`)
)

// shown is a command of the README and what it says comes out.
type shown struct{ command, output string }

// shownIn reads "    $ command" lines and what is below them.
func shownIn(text string) (all []shown) {
	for line := range strings.Lines(text) {
		line, inside := strings.CutPrefix(line, "    ")
		command, is := strings.CutPrefix(line, "$ ")
		switch {
		case is:
			all = append(all, shown{command: strings.TrimSpace(command)})
		case len(all) > 0 && (inside || strings.TrimSpace(line) == ""):
			all[len(all)-1].output += line
		}
	}
	return all
}

// pattern matches what the README shows: an ID stands for any, … for anything.
func pattern(output string) *regexp.Regexp {
	quoted := regexp.QuoteMeta(strings.TrimSpace(output))
	quoted = uuids.ReplaceAllLiteralString(strings.ReplaceAll(quoted, `\-`, "-"), uuids.String())
	return regexp.MustCompile(`(?s)^` + strings.ReplaceAll(quoted, "…", ".*") + `$`)
}

func TestFirstMinute(t *testing.T) {
	addr := freeAddr(t)
	run(t, addr, binary(t), "dev", "--addr", addr, "--redis-addr", freeAddr(t))
	for _, service := range []string{"echo", "progress", "upper"} {
		ready(t, "http://"+addr+"/v1/services/"+service)
	}
	typed(t, addr, "", section(t, "## In 60 seconds", "## "), 8)
}

// TestExamples types what the sections show to a newcomer who has dev running.
func TestExamples(t *testing.T) {
	addr, path := freeAddr(t), binary(t)
	run(t, addr, path, "dev", "--addr", addr, "--redis-addr", freeAddr(t))
	for _, service := range []string{"echo", "upper", "sleep", "progress", "flaky", "fail"} {
		ready(t, "http://"+addr+"/v1/services/"+service)
	}
	for _, s := range []struct {
		title   string
		atLeast int
	}{
		{"Who goes next", 9},
		{"One request to several services", 3},
		{"Many replies to one request", 6},
		{"No reply", 5},
		{"Many requests in one call", 7},
		{"The same request twice", 5},
		{"How fast it is", 2},
	} {
		t.Run(s.title, func(t *testing.T) { typed(t, addr, path, section(t, "## "+s.title, "\n## "), s.atLeast) })
	}
}

// TestDeadLetters begins without any.
func TestDeadLetters(t *testing.T) {
	addr, path := freeAddr(t), binary(t)
	run(t, addr, path, "dev", "--addr", addr, "--redis-addr", freeAddr(t))
	ready(t, "http://"+addr+"/v1/services/fail")
	typed(t, addr, path, section(t, "## Dead letters", "\n## "), 11)
}

// typed types the commands of a text into a shell, and compares what comes out.
// path is where coatcheck is, for commands that need it.
func typed(t *testing.T, addr, path, text string, atLeast int) {
	t.Helper()
	shell := exec.Command("bash")
	shell.Env = append(os.Environ(), "COATCHECK_URL=http://"+addr, "PATH="+filepath.Dir(path)+":"+os.Getenv("PATH"))
	shell.Dir = t.TempDir()
	in, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	defer shell.Wait()
	defer in.Close()
	lines := bufio.NewReader(stdout)
	id, examples := "", shownIn(text)
	if len(examples) < atLeast {
		t.Fatalf("only %d commands found in the README", len(examples))
	}
	for _, e := range examples {
		command := ports.ReplaceAllString(e.command, addr)
		if strings.HasPrefix(command, "ID=") {
			command = uuids.ReplaceAllString(command, id)
		}
		const end = "-- that was all --"
		fmt.Fprintf(in, "%s\nprintf '\\n%%s\\n' '%s'\n", command, end)
		var output strings.Builder
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("%s: %v", command, err)
			}
			if strings.TrimSpace(line) == end {
				break
			}
			output.WriteString(strings.ReplaceAll(line, "\r", ""))
		}
		got := strings.TrimSpace(output.String())
		if !pattern(e.output).MatchString(got) {
			t.Errorf("$ %s\nanswers\n%s\nthe README shows\n%s", e.command, got, e.output)
		}
		if id == "" {
			id = uuids.FindString(got)
		}
	}
}

// shout submits to the worker of an example, and wants HELLO.
func shout(t *testing.T, addr string) {
	t.Helper()
	ready(t, "http://"+addr+"/v1/services/shout") // known within a second
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/v1/services/shout/requests", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Prefer", "wait=20")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if got, err := io.ReadAll(answer.Body); err != nil || string(got) != "HELLO" || answer.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("%d %s, %v", answer.StatusCode, got, err)
	}
}

func TestWorkerInPython(t *testing.T) {
	redis, addr := redistest.Start(t), freeAddr(t)
	run(t, addr, binary(t), "serve", "--addr", addr, "--redis-url", redis.URL)
	python := ""
	for _, candidate := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(candidate, "-c", "import redis").Run() == nil {
			python = candidate
			break
		}
	}
	if python == "" {
		t.Fatal("no python3 with redis-py: run `make test`, or install it (Debian: apt-get install python3-redis)")
	}
	worker := exec.Command(python, "-c", section(t, "```python\n", "```"))
	worker.Env = append(os.Environ(), "REDIS_URL="+redis.URL)
	worker.Stderr = os.Stderr
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	defer worker.Wait()
	defer worker.Process.Kill()
	shout(t, addr)
}

func TestWorkerByAnyProgram(t *testing.T) {
	redis, addr, path := redistest.Start(t), freeAddr(t), binary(t)
	run(t, addr, path, "serve", "--addr", addr, "--redis-url", redis.URL)
	line := strings.TrimSpace(strings.SplitN(section(t, "needs nothing of the above:", "runs it for each"), "\n\n", 3)[1])
	worker := exec.Command("sh", "-c", "exec "+line)
	worker.Env = append(os.Environ(), "COATCHECK_REDIS_URL="+redis.URL, "PATH="+filepath.Dir(path)+":"+os.Getenv("PATH"))
	begin(t, worker)
	shout(t, addr)
}

func TestWorkerByCurl(t *testing.T) {
	redis, addr := redistest.Start(t), freeAddr(t)
	run(t, addr, binary(t), "serve", "--addr", addr, "--redis-url", redis.URL)
	worker := exec.Command("sh", "-c", section(t, "```sh\n", "```"))
	worker.Dir = t.TempDir()
	worker.Env = append(os.Environ(), "COATCHECK_URL=http://"+addr)
	begin(t, worker)
	shout(t, addr)
}

// begin starts a worker of an example, and ends it and its children with the test.
func begin(t *testing.T, worker *exec.Cmd) {
	t.Helper()
	worker.Stderr = os.Stderr
	worker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-worker.Process.Pid, syscall.SIGKILL)
		worker.Wait()
	})
}

// TestAnnouncedByHand: a plain worker is in the registry by the commands shown.
func TestAnnouncedByHand(t *testing.T) {
	redis, addr := redistest.Start(t), freeAddr(t)
	run(t, addr, binary(t), "serve", "--addr", addr, "--redis-url", redis.URL)
	lines := section(t, "A worker in another\nlanguage does so", "Without that")
	n := 0
	for line := range strings.Lines("HSETNX cc:services shout '{}'\n" + lines) {
		command, is := strings.CutPrefix(line, "    ")
		if !is && n > 0 {
			continue
		}
		n++
		c := exec.Command("redis-cli", "-u", redis.URL)
		c.Stdin = strings.NewReader(command)
		if out, err := c.CombinedOutput(); err != nil || strings.Contains(string(out), "ERR") {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	ready(t, "http://"+addr+"/v1/services/shout") // known within a second
	answer, err := http.Get("http://" + addr + "/v1/services/shout")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	for _, want := range []string{`"description":"Writes it louder."`, `"live_workers":1,"slots":1`, `"name":"me","version":"1.0"`} {
		if err != nil || !strings.Contains(string(raw), want) {
			t.Errorf("no %s: %s, %v", want, raw, err)
		}
	}
}

func TestWorkerByHand(t *testing.T) {
	redis, addr := redistest.Start(t), freeAddr(t)
	run(t, addr, binary(t), "serve", "--addr", addr, "--redis-url", redis.URL)
	cli := func(line string) string {
		t.Helper()
		c := exec.Command("redis-cli", "-u", redis.URL)
		c.Stdin = strings.NewReader(line + "\n")
		out, err := c.CombinedOutput()
		if err != nil || strings.Contains(string(out), "ERR") {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		return string(out)
	}
	var commands []string
	for line := range strings.Lines(section(t, "By hand with `redis-cli`", "In Python")) {
		if command, is := strings.CutPrefix(line, "    "); is {
			commands = append(commands, command)
		}
	}
	if len(commands) != 4 {
		t.Fatalf("%d commands, want 4: %q", len(commands), commands)
	}
	cli(commands[0])
	cli(commands[1])
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		shout(t, addr)
	}()
	var entry map[string]string
	for entry["token"] == "" {
		entry = map[string]string{}
		fields := strings.Fields(cli(commands[2]))
		for i := 0; i+1 < len(fields); i++ {
			entry[fields[i]] = fields[i+1]
		}
	}
	cli(strings.NewReplacer("<reply_to>", entry["reply_to"], "<token>", entry["token"]).Replace(commands[3]))
	<-answered
}
