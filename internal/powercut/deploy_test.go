package powercut_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/worker"
)

const (
	gateways = 2
	settings = "log: {level: error}\ndefaults: {lease: 2s, max_attempts: 50, timeout: 20m}\nservices: {quick: {}, slow: {}, none: {}}\n"

	asWorker = "POWERCUT_WORKER" // makes this test binary a worker on the Redis it names
)

// caller keeps its connections: a load of new ones would measure the kernel.
var caller = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 128}}

func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(asRedis) != "":
		err = becomeRedis()
	case os.Getenv(asWorker) != "":
		err = work(os.Getenv(asWorker))
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// work answers with the body; slow ones are under way when the power is cut.
func work(url string) error {
	w := worker.New(url, worker.Logger(slog.New(slog.DiscardHandler)), worker.Concurrency(64))
	echo := func(longest time.Duration) worker.Handler {
		return func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
			select {
			case <-ctx.Done():
				return worker.Reply{}, context.Cause(ctx)
			case <-time.After(rand.N(longest)):
			}
			return worker.Reply{ContentType: r.ContentType, Body: r.Body}, nil
		}
	}
	w.Handle("quick", echo(time.Millisecond))
	w.Handle("slow", echo(300*time.Millisecond))
	return w.Run(context.Background())
}

func service(n int) string { return []string{"quick", "quick", "quick", "slow"}[n%4] }

// serviceOf is the service of a request by its key.
func serviceOf(key string) string {
	var cut, client, n int
	_, _ = fmt.Sscanf(key, "%d-%d-%d", &cut, &client, &n)
	return service(n)
}

func binary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "coatcheck")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/coatcheck/coatcheck/cmd/coatcheck").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// deploy runs gateways and a worker, which end with the test.
func deploy(t *testing.T, redis *disk, flags ...string) (urls []string) {
	t.Helper()
	program := binary(t)
	for range gateways {
		urls = append(urls, gateway(t, program, redis.url(), flags...))
	}
	run(t, exec.Command(os.Args[0]), asWorker+"="+redis.url())
	return urls
}

// gateway runs one, and returns once it is ready.
func gateway(t *testing.T, program, redis string, flags ...string) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	file := filepath.Join(t.TempDir(), "coatcheck.yaml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, exec.Command(program, append([]string{"serve", "--config", file, "--addr", addr, "--redis-url", redis}, flags...)...))
	ready(t, "http://"+addr)
	return "http://" + addr
}

func run(t *testing.T, cmd *exec.Cmd, env ...string) {
	t.Helper()
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() // it says "killed"
	})
}

// recovered waits until all gateways take requests again.
func (l *ledger) recovered() {
	for _, url := range l.gateways {
		ready(l.t, url)
	}
}

func ready(t *testing.T, url string) {
	t.Helper()
	for begun := time.Now(); ; {
		response, err := caller.Get(url + "/readyz")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("%s is not ready", url)
		}
		<-time.After(20 * time.Millisecond) // it is ready when it is
	}
}

// receipt is the answer to a submit; only a 202 counts.
type receipt struct {
	code     int
	id       string
	replayed bool
}

// submit submits once.
func submit(ctx context.Context, gateway, service, key string) (receipt, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, gateway+"/v1/services/"+service+"/requests", strings.NewReader(key))
	if err != nil {
		return receipt{}, err
	}
	request.Header.Set("Content-Type", "text/plain")
	request.Header.Set(api.HeaderIdempotencyKey, key)
	code, header, body, err := do(request)
	if err != nil {
		return receipt{}, err
	}
	r := receipt{code: code, replayed: header.Get(api.HeaderIdempotencyReplayed) == "true"}
	var s api.Status
	if code == http.StatusAccepted {
		err = json.Unmarshal(body, &s)
	}
	r.id = s.CorrelationID
	return r, err
}

// post submits without a key.
func post(ctx context.Context, gateway, body string) (code int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, gateway+"/v1/services/none/requests", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	code, _, _, err = do(request)
	return code, err
}

// status is that of a request.
func status(gateway, id string) (code int, document string, err error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, gateway+"/v1/requests/"+id, nil)
	if err != nil {
		return 0, "", err
	}
	code, err = patiently(func() (int, error) {
		code, _, body, err := do(request)
		document = string(body)
		return code, err
	})
	return code, document, err
}

// outcome waits for it until ctx ends; "" where it did not come, or was not heard of.
func outcome(ctx context.Context, gateway, id string) (document string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, gateway+"/v1/requests/"+id+"?wait=10s", nil)
	if err != nil {
		return ""
	}
	code, _, body, err := do(request)
	var s api.Status
	if err != nil || code != http.StatusOK || json.Unmarshal(body, &s) != nil || s.FinishedAt.IsZero() {
		return ""
	}
	return string(body)
}

// reply waits for the outcome and reads the reply.
func reply(gateway, id string) (string, error) {
	for begun := time.Now(); time.Since(begun) < 2*time.Minute; {
		request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, gateway+"/v1/requests/"+id+"?wait=30s", nil)
		if err != nil {
			return "", err
		}
		var body []byte
		code, err := patiently(func() (code int, err error) {
			code, _, body, err = do(request)
			return code, err
		})
		if err != nil || code != http.StatusOK {
			return "", fmt.Errorf("%d %s, %w", code, body, err)
		}
		var s api.Status
		if err := json.Unmarshal(body, &s); err != nil {
			return "", err
		}
		if s.FinishedAt.IsZero() {
			continue
		}
		var text string
		err = json.Unmarshal(s.Reply.Body, &text)
		return text, err
	}
	return "", errors.New("no outcome")
}

// patiently calls again while the gateway can't tell: a server whose system calls
// are all written down may be slow beyond its patience.
func patiently(call func() (code int, err error)) (code int, err error) {
	for begun := time.Now(); ; {
		code, err = call()
		if err == nil && code != http.StatusServiceUnavailable && code != http.StatusGatewayTimeout || time.Since(begun) > time.Minute {
			return code, err
		}
		<-time.After(200 * time.Millisecond) // as its Retry-After says, about
	}
}

func do(request *http.Request) (code int, header http.Header, body []byte, err error) {
	response, err := caller.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, response.Header, body, err
}
