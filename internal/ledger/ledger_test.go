// Package ledger_test counts as Jepsen does: each submit is ok, refused or
// unknown, and after the faults every accepted request must have exactly one
// outcome with its own payload, whoever was killed meanwhile. Requests of all kinds
// run together, see mix_test.go. Real processes, a
// real redis-server that syncs every write, SIGKILL at random times; the seed is
// printed, and COATCHECK_LEDGER_SEED repeats it.
package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	requests = 2000
	kills    = 10
	clients  = 24
	gateways = 3
	workers  = 4
	lease    = 2 * time.Second
	settings = "log: {level: warn}\ndefaults: {lease: 2s, max_attempts: 20, timeout: 4m}\nservices: {same: {coalesce: true, cache_ttl: 1m}}\n"

	quick  = "quick"  // answers at once
	slow   = "slow"   // holds a request for up to longest, so that a kill meets running ones
	stuck  = "stuck"  // never answers
	talk   = "talk"   // sends parts of its reply ahead
	same   = "same"   // shares its runs and replies
	again  = "again"  // wants a second attempt
	broken = "broken" // fails

	longest   = 600 * time.Millisecond
	workerURL = "COATCHECK_LEDGER_WORKER" // makes this test binary a worker on the Redis it names
)

func TestMain(m *testing.M) {
	if url := os.Getenv(workerURL); url != "" {
		if err := work(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// work is a worker process: most services send the body back.
func work(redisURL string) error {
	echo := func(longest time.Duration) worker.Handler {
		return func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
			if longest > 0 {
				if err := r.Progress(ctx, map[string]int{"attempt": r.Attempt}); err != nil {
					return worker.Reply{}, err
				}
				select {
				case <-ctx.Done():
					return worker.Reply{}, context.Cause(ctx)
				case <-time.After(rand.N(longest)):
				}
			}
			return worker.Reply{ContentType: r.ContentType, Body: r.Body}, nil
		}
	}
	w := worker.New(redisURL, worker.Logger(slog.New(slog.DiscardHandler)))
	w.Handle(quick, echo(0))
	w.Handle(slow, echo(longest))
	w.Handle(stuck, func(ctx context.Context, _ *worker.Request) (worker.Reply, error) {
		<-ctx.Done()
		return worker.Reply{}, context.Cause(ctx)
	})
	w.Handle(same, echo(0))
	w.Handle(talk, func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
		for n := range parts {
			if err := r.Partial(ctx, "text/plain", fmt.Appendf(nil, "%d.%d", r.Attempt, n)); err != nil {
				return worker.Reply{}, err
			}
		}
		return echo(0)(ctx, r)
	})
	w.Handle(again, func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
		if r.Attempt == 1 {
			return worker.Reply{}, worker.Retry(errors.New("not yet"), 50*time.Millisecond)
		}
		return echo(0)(ctx, r)
	})
	w.Handle(broken, func(context.Context, *worker.Request) (worker.Reply, error) {
		return worker.Reply{}, worker.Fail("broken", "as ever")
	})
	return w.Run(context.Background())
}

// fleet is the processes under fire.
type fleet struct {
	t     *testing.T
	mu    sync.Mutex // guards procs
	procs []*proc
	urls  []string // of the gateways
}

type proc struct {
	args []string
	env  string
	cmd  *exec.Cmd
}

func (p *proc) start(t *testing.T) {
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Env = append(os.Environ(), "HOME=/nonexistent", p.env)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Errorf("start %v: %v", p.args, err)
	}
}

func (p *proc) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait() // says "killed", as it was meant to be
}

func deploy(t *testing.T, redisURL string) *fleet {
	t.Helper()
	dir := t.TempDir()
	binary, file := filepath.Join(dir, "coatcheck"), filepath.Join(dir, "coatcheck.yaml")
	build := exec.Command("go", "build", "-o", binary, "github.com/coatcheck/coatcheck/cmd/coatcheck")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t}
	for range gateways {
		addr := freeAddr(t)
		f.urls = append(f.urls, "http://"+addr)
		f.procs = append(f.procs, &proc{args: []string{binary, "serve", "--config", file, "--addr", addr, "--redis-url", redisURL}})
	}
	for range workers {
		f.procs = append(f.procs, &proc{args: []string{os.Args[0]}, env: workerURL + "=" + redisURL})
	}
	for _, p := range f.procs {
		p.start(t)
	}
	t.Cleanup(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, p := range f.procs {
			p.kill()
		}
	})
	return f
}

// strike kills one process at random and starts it again a little later.
func (f *fleet) strike(r *rand.Rand, down time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.procs[r.IntN(len(f.procs))]
	p.kill()
	<-time.After(down) // the fault itself: how long the process is gone
	p.start(f.t)
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

func TestLedger(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("COATCHECK_LEDGER_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("COATCHECK_LEDGER_SEED=%d", seed)
	r := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	f := deploy(t, r.URL)
	ctx, stop := context.WithTimeout(t.Context(), 4*time.Minute)
	defer stop()
	for n := range mix {
		if _, err := submit(ctx, f, n, "warm-up"); err != nil {
			t.Fatalf("the fleet never came up: %v", err)
		}
	}

	var accepted sync.Map // what was accepted → how it was submitted
	var moved, answered atomic.Int64
	var all sync.WaitGroup
	struck := make(chan struct{})
	go func() {
		defer close(struck)
		random := rand.New(rand.NewPCG(seed, 1))
		for range kills {
			f.strike(random, time.Duration(100+random.IntN(400))*time.Millisecond)
			<-time.After(time.Duration(300+random.IntN(700)) * time.Millisecond) // between faults
		}
	}()
	begun := time.Now()
	jobs := make(chan int)
	for c := range clients {
		all.Go(func() {
			for n := range jobs {
				payload := fmt.Sprintf("payload %d of client %d, %x", n, c, seed)
				if mix[n%len(mix)].same {
					payload = fmt.Sprintf("payload %d for all, %x", n/100, seed)
				}
				tries, err := submit(ctx, f, n, payload)
				if err != nil {
					t.Errorf("request %d was never accepted: %v", n, err)
					continue
				}
				moved.Add(int64(tries.retries))
				if other, twice := accepted.LoadOrStore(tries.id, submitted{n, payload}); twice {
					t.Errorf("%s was given to %q and to %q", tries.id, other, payload)
				}
			}
		})
	}
	for n := range requests {
		jobs <- n
		if n%20 == 0 { // spread over the faults
			<-time.After(100 * time.Millisecond)
		}
	}
	close(jobs)
	all.Wait()
	<-struck
	healed := time.Now()

	a := &audit{t: t, fleet: f, order: map[string][]api.Status{}}
	accepted.Range(func(id, how any) bool {
		all.Go(func() {
			s := how.(submitted)
			mix[s.n%len(mix)].verify(ctx, a, id.(string), s.payload)
			answered.Add(1)
		})
		return true
	})
	all.Wait()
	a.inOrder()
	dispatchedAgain := a.again
	t.Logf("accepted %d of %d, answered with their own payload %d; %d submits moved to another gateway, %d requests dispatched again; %d processes killed in %v, all answered %v after the last",
		count(&accepted), requests, answered.Load(), moved.Load(), dispatchedAgain, kills, healed.Sub(begun).Round(time.Millisecond), time.Since(healed).Round(time.Millisecond))
	if answered.Load() != requests || count(&accepted) != requests {
		t.Errorf("the ledger does not balance")
	}
	if dispatchedAgain == 0 {
		t.Error("no kill met a running request: this run shows nothing of leases")
	}
	if dispatchedAgain > requests/20 {
		t.Errorf("%d of %d requests were dispatched more than once", dispatchedAgain, requests)
	}
}

type receipt struct {
	id      string
	retries int
}

// submit tries one gateway after the other with one idempotency key: what is
// unknown resolves to one acceptance.
func submit(ctx context.Context, f *fleet, n int, payload string) (receipt, error) {
	key := fmt.Sprintf("key-%d-%s", n, payload)
	key = fmt.Sprintf("%x", key)
	key = key[max(0, len(key)-200):]
	for try := 0; ; try++ {
		id, err := mix[n%len(mix)].submit(ctx, one(f, n+try), n, client.Request{ContentType: "text/plain", Body: []byte(payload), IdempotencyKey: key})
		if err == nil {
			return receipt{id, try}, nil
		}
		if ctx.Err() != nil {
			return receipt{}, err
		}
		<-time.After(50 * time.Millisecond) // a service that is not announced yet, a gateway that is down
	}
}

func one(f *fleet, n int) *client.Client { return client.New(f.urls[n%len(f.urls)]) }

func count(m *sync.Map) (n int) {
	m.Range(func(any, any) bool { n++; return true })
	return n
}
