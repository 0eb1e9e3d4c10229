package readme_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// around is what stands around the Go of the README, by a word in it.
var around = map[string]string{
	"client.New":     "func _(ctx context.Context, picture []byte) (client.Reply, error) {\n%s\nreturn reply, err\n}",
	"worker.New":     "func _(ctx context.Context, resize func([]byte) []byte) error {\n%s\nreturn err\n}",
	"webhook.Verify": "func _(w http.ResponseWriter, r *http.Request) {\n%s\n}",
	"gateway.Load":   "func _(ctx context.Context, quota func(string) error) error {\n%s\nreturn err\n}",
}

const imports = `package snippets

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"

	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/api/gateway"
	"github.com/coatcheck/coatcheck/api/intercept"
	"github.com/coatcheck/coatcheck/api/webhook"
	"github.com/coatcheck/coatcheck/api/worker"
)

var _ = slog.Default
var _ intercept.Interceptor
var _ gateway.Gateway

`

// TestGo builds the Go of the README, in a package that only the compiler sees.
func TestGo(t *testing.T) {
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, found := imports, 0
	for i, part := range strings.Split(string(raw), "```go\n") {
		code, _, _ := strings.Cut(part, "```")
		for word, frame := range around {
			if i > 0 && strings.Contains(code, word) {
				source += strings.Replace(frame, "%s", code, 1) + "\n\n"
				found++
			}
		}
	}
	if all := strings.Count(string(raw), "```go\n"); found != all || found == 0 {
		t.Fatalf("%d of %d pieces of Go have a frame", found, all)
	}
	file := filepath.Join(t.TempDir(), "snippets.go")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(here, "snippets", "snippets.go"): file}})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-overlay", list, "./snippets").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s\nin\n%s", err, out, source)
	}
}

// TestInterceptorsOfTheConfiguration takes the example as a whole configuration.
func TestInterceptorsOfTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	for _, schema := range []string{"resize.json", "resized.json"} {
		if err := os.WriteFile(filepath.Join(dir, schema), []byte(`{"type":"object"}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "coatcheck.yaml")
	if err := os.WriteFile(file, []byte(section(t, "```yaml\ninterceptors:", "```")), 0o600); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append([]byte("interceptors:"), whole...), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	c, err := config.Load(file, nil)
	if err == nil {
		err = c.Check()
	}
	if err != nil || len(c.Interceptors) != 2 {
		t.Errorf("%d interceptors, %v", len(c.Interceptors), err)
	}
}

// TestBackend puts the example of a backend before one, and types its call.
func TestBackend(t *testing.T) {
	calls := make(chan string, 4)
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { calls <- r.Method + " " + r.URL.String() }))
	defer backend.Close()
	text := section(t, "## An HTTP backend as a worker", "Method, path below")
	const host = "http://shop.internal:8000"
	_, yaml, found := strings.Cut(text, "```yaml\n")
	yaml, call, ended := strings.Cut(yaml, "```")
	if !found || !ended || !strings.Contains(yaml, host) {
		t.Fatal("the example has no such backend")
	}
	file := filepath.Join(t.TempDir(), "coatcheck.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(yaml, host, backend.URL, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	redis, addr := redistest.Start(t), freeAddr(t)
	run(t, addr, binary(t), "serve", "--config", file, "--addr", addr, "--redis-url", redis.URL)
	line, says, found := strings.Cut(strings.TrimSpace(call), "# 202; ")
	if !found {
		t.Fatalf("no call in %q", call)
	}
	out, err := exec.Command("sh", "-c", ports.ReplaceAllString(line, addr)).CombinedOutput()
	if err != nil || !strings.Contains(string(out), " 202 Accepted") {
		t.Errorf("%v: %s", err, out)
	}
	if got, want := <-calls, strings.TrimSuffix(says, " at the backend"); got != want {
		t.Errorf("the backend was called by %q, want %q", got, want)
	}
}
