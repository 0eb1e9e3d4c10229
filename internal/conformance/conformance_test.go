package conformance_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/conformance"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const examples = "../../api/worker/examples"

// house is a gateway of two partitions on a real Redis.
type house struct {
	url, redis string
	server     *redistest.Redis
	python     string // one that has redis-py
}

var bin string // set by TestMain

// TestMain builds the programs once, for all tests.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "conformance"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(bin)
		for name, room := range map[string]string{"coatcheck": "../../cmd/coatcheck", "go-worker": examples + "/go"} {
			if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, name), room).CombinedOutput(); err != nil {
				panic(fmt.Sprintf("build: %v\n%s", err, out))
			}
		}
		return m.Run()
	}())
}

func open(t *testing.T, configuration string) house {
	t.Helper()
	server := redistest.Start(t)
	h := house{redis: server.URL, server: server}
	for _, candidate := range []string{"python3", "/usr/bin/python3"} {
		if h.python == "" && exec.Command(candidate, "-c", "import redis").Run() == nil {
			h.python = candidate
		}
	}
	if h.python == "" {
		t.Fatal("no python3 with redis-py: run `make tools`")
	}
	file := filepath.Join(t.TempDir(), "coatcheck.yaml")
	if err := os.WriteFile(file, []byte("partitions: 2\ndrain_delay: 0s\ndefaults: {lease: 3s}\n"+configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	gateway := exec.Command(filepath.Join(bin, "coatcheck"), "serve", "--addr", "127.0.0.1:0", "--redis-url", h.redis, "--config", file)
	said, err := gateway.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		gateway.Process.Signal(syscall.SIGTERM)
		gateway.Wait()
	})
	listening := regexp.MustCompile(`msg=listening addr=(\S+)`)
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if found := listening.FindStringSubmatch(lines.Text()); found != nil {
			h.url = "http://" + found[1]
			go io.Copy(io.Discard, said)
			return h
		}
	}
	t.Fatal("the gateway does not listen")
	return h
}

// start is the command of a worker, with all that it needs to know.
func (h house) start(command string, args ...any) string {
	return fmt.Sprintf("env REDIS_URL=%s COATCHECK_REDIS_URL=%[1]s COATCHECK_URL=%s %s", h.redis, h.url, fmt.Sprintf(command, args...))
}

// transcript is what is said by somebody else's goroutine.
type transcript struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// conform runs the duties and returns how each went.
func (h house) conform(t *testing.T, o conformance.Options) map[string]conformance.Result {
	t.Helper()
	var said transcript
	o.URL, o.Output = h.url, &said
	o.Report = func(r conformance.Result) { t.Log(r) }
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	results, err := conformance.Run(ctx, o)
	if err != nil {
		t.Errorf("%v\n%s", err, said.String())
	}
	by := map[string]conformance.Result{}
	for _, r := range results {
		by[r.Duty] = r
	}
	if t.Failed() || testing.Verbose() {
		t.Logf("the worker said:\n%s", said.String())
	}
	return by
}

func freeAddr(t *testing.T) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// TestWorkersConform: every kind of worker that the documentation shows does
// every duty, but for the events that two kinds have no way to send.
func TestWorkersConform(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(examples + "/node/node_modules/redis"); err != nil {
		t.Fatalf("the Node example has no redis: run `make tools`: %v", err)
	}
	port := freeAddr(t)
	h := open(t, "services: {push: {upstream: 'http://127.0.0.1:"+port+"'}}\n")
	var all sync.WaitGroup
	for service, worker := range map[string]struct{ start, lacks string }{
		"go":     {start: h.start("%s/go-worker go", bin)},
		"python": {start: h.start("%s %s/python/worker.py python", h.python, examples)},
		"node":   {start: h.start("node %s/node/worker.mjs node", examples)},
		"exec":   {start: h.start("%s/coatcheck worker exec exec --concurrency 4 -- sh %s/exec/duties.sh", bin, examples), lacks: "partial"},
		"pull":   {start: h.start("sh %s/pull/worker.sh pull", examples)},
		"push":   {start: h.start("%s %s/upstream/backend.py %s", h.python, examples, port), lacks: "progress"},
	} {
		all.Go(func() {
			t.Run(service, func(t *testing.T) { // not Parallel, which is for what computes
				by := h.conform(t, conformance.Options{Service: service, Start: worker.start})
				for _, duty := range conformance.Duties() {
					want := conformance.Passed
					if duty == worker.lacks {
						want = conformance.Skipped
					}
					if by[duty].Verdict != want {
						t.Errorf("%s: %s, want %s", duty, by[duty].Verdict, want)
					}
				}
			})
		})
	}
	all.Wait()
}

// TestExamplesOutliveTheirData: a Redis that comes back empty has neither streams
// nor groups, and the workers go on all the same.
func TestExamplesOutliveTheirData(t *testing.T) {
	t.Parallel()
	h := open(t, "")
	commands := map[string]string{
		"python": h.start("%s %s/python/worker.py python", h.python, examples),
		"node":   h.start("node %s/node/worker.mjs node", examples),
	}
	for service, command := range commands {
		worker := exec.Command("sh", "-c", "exec "+command)
		if err := worker.Start(); err != nil {
			t.Fatal(err)
		}
		defer worker.Wait()
		defer worker.Process.Kill()
		if by := h.conform(t, conformance.Options{Service: service, Only: []string{"reply", "kill"}}); by["reply"].Verdict != conformance.Passed || by["kill"].Verdict != conformance.Skipped {
			t.Errorf("%s: %v", service, by)
		}
	}
	if err := h.server.Client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for service := range commands {
		if by := h.conform(t, conformance.Options{Service: service, Only: []string{"reply"}}); by["reply"].Verdict != conformance.Passed {
			t.Errorf("%s, after its data is gone: %v", service, by)
		}
	}
}
