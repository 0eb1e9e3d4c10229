package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coatcheck/coatcheck/api/webhook"
	"github.com/coatcheck/coatcheck/internal/bench"
)

// kind is what a measurement is about.
type kind string

const (
	product kind = "coatcheck"
	limit   kind = "limit"
	chi     kind = "chi"
	xadd    kind = "xadd"
	peer    kind = "peer"
)

// lab has what all measurements share.
type lab struct {
	rounds   int
	duration time.Duration
	clients  int

	profiles string // directory for CPU profiles of the gateway, "" for none

	dir                string
	self, gateway, ask string // binaries: this one, the gateway, the peer
	secret             string
	began              time.Time

	figures []figure
	lines   []line

	loads, bad int      // of the gateway: how many, and requests of them that went wrong
	badIn      []string // in which
}

// newLab builds what is measured. This process may then have as many files open
// as the machine lets it, for the rows with many streams.
func newLab(ctx context.Context, rounds int, duration time.Duration, clients int) (*lab, error) {
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) == nil {
		files.Cur = files.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files) // the rows that need it say so
	}
	dir, err := os.MkdirTemp("", "coatcheck-bench-")
	if err != nil {
		return nil, err
	}
	l := &lab{rounds: rounds, duration: duration, clients: clients, dir: dir, secret: webhook.NewSecret(), began: time.Now()}
	l.gateway, l.ask = filepath.Join(dir, "coatcheck"), filepath.Join(dir, "peer")
	if l.self, err = os.Executable(); err == nil {
		err = l.build(ctx)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *lab) close() { _ = os.RemoveAll(l.dir) }

// build makes the binaries of the gateway and the peer from the module in which
// this runs.
func (l *lab) build(ctx context.Context) error {
	l.say("building the gateway and the peer")
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/coatcheck/coatcheck").Output()
	if err != nil {
		return fmt.Errorf("find the module (run this in its directory): %w", err)
	}
	module := strings.TrimSpace(string(root))
	for _, b := range []struct{ dir, pkg, out string }{
		{module, "./cmd/coatcheck", l.gateway},
		{filepath.Join(module, "internal/bench/peer"), ".", l.ask},
	} {
		c := exec.CommandContext(ctx, "go", "build", "-o", b.out, b.pkg)
		c.Dir = b.dir
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", b.pkg, err, out)
		}
	}
	return nil
}

// say tells on stderr what is going on.
func (l *lab) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.0fs  %s\n", time.Since(l.began).Seconds(), fmt.Sprintf(format, args...))
}

// setup is what a measurement runs on.
type setup struct {
	kind    kind
	worker  bool   // start a worker process with it
	readAll bool   // of the limit
	body    int    // of xadd
	tapped  bool   // count what the gateway and its worker send to Redis
	redis   string // more arguments of redis-server
	more    string // lines of the service's configuration, for the gateway
	name    string // in the tables; "" is the kind
	what    string // is measured
}

func (s setup) title() string {
	if s.name != "" {
		return s.name
	}
	return string(s.kind)
}

// stack is a setup that runs.
type stack struct {
	setup
	lab             *lab
	url             string
	admin           string // address for profiles, "" where none are made
	gateway, worker *process
	redis           *redis
	tap, workerTap  *tap // nil where nothing is counted
}

// up starts a stack. Whoever has it stops it.
func (l *lab) up(ctx context.Context, s setup) (_ *stack, err error) {
	k := &stack{setup: s, lab: l}
	defer func() {
		if err != nil {
			k.stop()
		}
	}()
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	k.url = "http://" + addr
	redisURL := ""
	if s.kind != chi {
		if k.redis, err = startRedis(ctx, l.dir, strings.Fields(s.redis)...); err != nil {
			return nil, err
		}
		redisURL = k.redis.url()
	}
	if s.tapped {
		if k.tap, err = newTap(k.redis.addr); err != nil {
			return nil, err
		}
		redisURL = k.tap.url()
	}
	switch s.kind {
	case product:
		err = k.startProduct(ctx, addr, redisURL)
	case peer:
		k.gateway, err = start(l.dir, "peer", l.ask, nil, "gateway", addr, redisURL, l.secret)
	case limit:
		how := sized
		if s.readAll {
			how = readAll
		}
		k.gateway, err = start(l.dir, "limit", l.self, nil, "run", "limit", addr, redisURL, how)
	case chi:
		k.gateway, err = start(l.dir, "chi", l.self, nil, "run", "chi", addr)
	case xadd:
		k.gateway, err = start(l.dir, "xadd", l.self, nil, "run", "xadd", k.redis.addr, strconv.Itoa(s.body))
		return k, err
	}
	if err != nil {
		return nil, err
	}
	if err := k.gateway.until(ctx, "listening", func() bool { return answers(addr) }); err != nil {
		return nil, err
	}
	if s.worker {
		if err := k.startWorker(ctx); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func answers(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// startProduct starts the gateway as `coatcheck serve` is by default, but for a
// queue that may grow as long as a measurement makes it.
func (k *stack) startProduct(ctx context.Context, addr, redisURL string) (err error) {
	file := filepath.Join(k.lab.dir, "coatcheck-"+addr[strings.LastIndexByte(addr, ':')+1:]+".yaml")
	text := "services:\n  " + service + ":\n    max_queued: 10000000\n" + k.more
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	args := []string{"serve", "--addr", addr, "--redis-url", redisURL, "--config", file}
	if k.lab.profiles != "" {
		if k.admin, err = freeAddr(); err != nil {
			return err
		}
		args = append(args, "--admin-addr", k.admin)
	}
	k.gateway, err = start(k.lab.dir, "coatcheck", k.lab.gateway, []string{
		"COATCHECK_CALLBACKS_SECRET=" + k.lab.secret, "COATCHECK_CALLBACKS_ALLOW_CIDRS=127.0.0.0/8",
	}, args...)
	if err != nil {
		return err
	}
	return k.gateway.until(ctx, "being ready", func() bool {
		answer, err := http.Get(k.url + "/readyz")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// startWorker starts the worker, and waits until a request has its reply.
func (k *stack) startWorker(ctx context.Context) error {
	if err := k.launchWorker(); err != nil {
		return err
	}
	r, err := bench.Run(ctx, k.options(bench.Options{Via: bench.Wait, Body: 1 << 10, Clients: 1, Requests: 1, Duration: startTime, Timeout: startTime}))
	if err != nil {
		return err
	}
	if r.Answered != 1 || r.Wrong+r.Failed > 0 {
		return fmt.Errorf("%s answers no request: %+v; the worker: %s", k.title(), r.Counts, k.worker.said.String())
	}
	return nil
}

// launchWorker starts the worker alone.
func (k *stack) launchWorker() (err error) {
	redisURL, n := k.redis.url(), strconv.Itoa(concurrency)
	if k.kind == peer {
		n = strconv.Itoa(peerConcurrency)
	}
	if k.tapped {
		if k.workerTap, err = newTap(k.redis.addr); err != nil {
			return err
		}
		redisURL = k.workerTap.url()
	}
	switch k.kind {
	case product:
		k.worker, err = start(k.lab.dir, "worker", k.lab.self, nil, "run", "worker", redisURL, n)
	case limit:
		k.worker, err = start(k.lab.dir, "limit's worker", k.lab.self, nil, "run", "limit-worker", redisURL)
	case peer:
		k.worker, err = start(k.lab.dir, "peer's worker", k.lab.ask, nil, "worker", redisURL, n)
	default:
		err = errors.New("it has no worker")
	}
	return err
}

func (k *stack) stop() {
	k.worker.stop()
	k.gateway.stop()
	k.tap.stop()
	k.workerTap.stop()
	k.redis.stop()
}

// options are those of a load to this stack.
func (k *stack) options(o bench.Options) bench.Options {
	o.URL, o.Service = k.url, service
	o.Receiver.Secrets = []string{k.lab.secret}
	o.Receiver.Unsigned = k.kind == limit
	return o
}
