// Package fleet runs gateways and workers as they are in the field: processes of
// their own, which a test kills, stops and starts again.
//
//	func TestMain(m *testing.M) { fleet.Main(m, work) }
//
//	g := fleet.Gateway(t, redis.URL, "defaults: {lease: 2s}")
//	w := fleet.Worker(t, redis.URL)
//	… client.New(g.URL) …
//	w.Kill()
//	w.Start()
//
// A process that ends without having been killed fails its test, with what it said
// last, but for a CrashLoop. All end with their test.
package fleet

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	module    = "github.com/coatcheck/coatcheck"
	patience  = 30 * time.Second        // for a process that starts
	look      = 20 * time.Millisecond   // between looks whether it has
	workerURL = "COATCHECK_FLEET_REDIS" // makes a test binary a worker on the Redis it names
)

// Main runs the tests of a package, and work where the process is a Worker.
func Main(m *testing.M, work func(redisURL string) error) {
	if url := os.Getenv(workerURL); url != "" {
		if err := work(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// built are the programs that this test binary needed so far.
var built struct {
	sync.Mutex
	dir  string
	done map[string]string
}

// program builds a package of this module, once.
func program(t testing.TB, name string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if path := built.done[name]; path != "" {
		return path
	}
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "fleet")
		if err != nil {
			t.Fatal(err)
		}
		built.dir, built.done = dir, map[string]string{}
	}
	path, args := filepath.Join(built.dir, filepath.Base(name)), []string{"build"}
	if overlay := os.Getenv(overlaid); overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	if out, err := exec.Command("go", append(args, "-o", path, module+"/"+name)...).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	built.done[name] = path
	return path
}

// Server is a gateway process.
type Server struct {
	*Process
	URL string
}

// Gateway starts `coatcheck serve` with a configuration, as YAML, on a Redis, and
// waits until it answers.
func Gateway(t testing.TB, redisURL, settings string) Server {
	t.Helper()
	file, addr := filepath.Join(t.TempDir(), "coatcheck.yaml"), redistest.FreeAddr(t)
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	s := Server{URL: "http://" + addr}
	s.Process = start(t, nil, program(t, "cmd/coatcheck"), "serve", "--config", file, "--addr", addr, "--redis-url", redisURL)
	s.Ready(t)
	return s
}

// Ready waits until the gateway is.
func (s Server) Ready(t testing.TB) {
	t.Helper()
	once := http.Client{Timeout: time.Second}
	for begun := time.Now(); ; time.Sleep(look) {
		answer, err := once.Get(s.URL + "/readyz")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Since(begun) > patience {
			t.Fatalf("the gateway is not ready: %v\n%s", err, s.Said())
		}
	}
}

// Worker starts this test binary as a worker: see Main. env are further variables.
func Worker(t testing.TB, redisURL string, env ...string) *Process {
	t.Helper()
	return start(t, append([]string{workerURL + "=" + redisURL}, env...), os.Args[0])
}

// CrashLoop is a Worker that is started again whenever it ends.
func CrashLoop(t testing.TB, redisURL string, env ...string) *Process {
	t.Helper()
	p := Worker(t, redisURL, env...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loop = true
	return p
}

// Python starts the worker in Python of the examples, for one service.
func Python(t testing.TB, redisURL, service string) *Process {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatalf("find the examples: %v", err)
	}
	script := filepath.Join(strings.TrimSpace(string(out)), "api/worker/examples/python/worker.py")
	return start(t, []string{"REDIS_URL=" + redisURL}, python(t), script, service)
}

// python is one that has redis-py.
func python(t testing.TB) string {
	t.Helper()
	for _, candidate := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(candidate, "-c", "import redis").Run() == nil {
			return candidate
		}
	}
	t.Fatal("no python3 with redis-py: run `make tools`")
	return ""
}
