package faults_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/internal/gateway"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	lease    = 2 * time.Second
	attempts = 20 // that a request has
)

// house is two gateways and two workers on one Redis, each with a network of its
// own that can be broken.
type house struct {
	*round
	redis   *redistest.Redis // nil for a Redis Cluster
	url     string           // of that
	gates   []*gate
	workers []*redistest.Proxy

	mu  sync.Mutex     // guards ran
	ran map[string]int // how often a payload came to a worker
}

// gate is a gateway, within this process or as one of its own.
type gate struct {
	url     string
	proxy   *redistest.Proxy // nil for a process
	process *fleet.Process   // nil within this one

	mu   sync.Mutex     // guards the rest
	said map[string]int // warnings and errors of its log
}

// open starts a house on a Redis. change adapts the configuration of its gateways.
func open(r *round, redis *redistest.Redis, change ...func(*config.Config)) *house {
	r.Helper()
	h := &house{round: r, redis: redis, ran: map[string]int{}}
	for range 2 {
		h.gateway(change...)
	}
	h.echoes()
	return h
}

// apart starts a house whose gateways are processes. settings are theirs beside the
// usual ones, as YAML.
func apart(r *round, redis *redistest.Redis, settings string) *house {
	r.Helper()
	h := &house{round: r, redis: redis, ran: map[string]int{}}
	for range 2 {
		s := fleet.Gateway(r, redis.URL, fmt.Sprintf("log: {level: warn}\ndefaults: {lease: %v, max_attempts: %d}\n%s", lease, attempts, settings))
		h.gates = append(h.gates, &gate{url: s.URL, process: s.Process})
	}
	h.echoes()
	return h
}

// echoes starts two workers, and returns when work flows.
func (h *house) echoes() {
	h.Helper()
	for range 2 {
		p := h.redis.Proxy(h)
		h.workers = append(h.workers, p)
		h.work(p.URL, func(w *worker.Worker) { w.Handle("echo", h.echo) })
	}
	h.flows()
}

// openAt starts a house on what a URL names, without networks that can be broken.
func openAt(r *round, url string, change ...func(*config.Config)) *house {
	r.Helper()
	h := &house{round: r, url: url, ran: map[string]int{}}
	for range 2 {
		h.gateway(change...)
	}
	for range 2 {
		h.work(url, func(w *worker.Worker) { w.Handle("echo", h.echo) })
	}
	h.flows()
	return h
}

func (h *house) gateway(change ...func(*config.Config)) {
	h.Helper()
	h.gates = append(h.gates, h.start(change...))
}

// start starts a gateway that none of the load goes to.
func (h *house) start(change ...func(*config.Config)) *gate {
	h.Helper()
	c := config.Default()
	c.DrainDelay = 0
	c.Defaults.Lease, c.Defaults.MaxAttempts = lease, attempts
	for _, f := range change {
		f(&c)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.Fatal(err)
	}
	g, redis := &gate{url: "http://" + l.Addr().String(), said: map[string]int{}}, h.url
	if h.redis != nil {
		g.proxy = h.redis.Proxy(h)
		redis = g.proxy.URL
	}
	started, err := gateway.Start(h.Context(), gateway.Options{Config: c, RedisURL: redis, Listener: l, Logger: slog.New(g)})
	if err != nil {
		h.Fatal(err)
	}
	h.run(started.Run)
	return g
}

// work runs a worker until the test ends.
func (h *house) work(url string, set func(*worker.Worker), options ...worker.Option) {
	w := worker.New(url, append(options, worker.Logger(slog.New(slog.DiscardHandler)), worker.Grace(0))...)
	set(w)
	h.run(w.Run)
}

// run has something run until the test ends.
func (h *house) run(part func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- part(ctx) }()
	h.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			h.Errorf("a part ended: %v", err)
		}
	})
}

// echo gives the body back after a moment, and counts that it came.
func (h *house) echo(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	h.mu.Lock()
	h.ran[string(r.Body)]++
	h.mu.Unlock()
	select {
	case <-ctx.Done():
		return worker.Reply{}, context.Cause(ctx)
	case <-time.After(rand.N(50 * time.Millisecond)):
	}
	return worker.Reply{ContentType: r.ContentType, Body: r.Body}, nil
}

// runs is how often each payload came to a worker.
func (h *house) runs() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.ran)
}

// networks are all that lead to Redis.
func (h *house) networks() (all []*redistest.Proxy) {
	for _, g := range h.gates {
		if g.proxy != nil {
			all = append(all, g.proxy)
		}
	}
	return append(all, h.workers...)
}

// on does something to all networks.
func (h *house) on(do func(*redistest.Proxy)) {
	for _, p := range h.networks() {
		do(p)
	}
}

// lines is how many the gateways logged so far.
func (h *house) lines() (n int) {
	for _, g := range h.gates {
		if g.process != nil {
			n += g.process.Lines()
		}
		g.mu.Lock()
		for _, times := range g.said {
			n += times
		}
		g.mu.Unlock()
	}
	return n
}

// The log of a gateway counts what an operator would have to read.

func (g *gate) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (g *gate) Handle(_ context.Context, line slog.Record) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.said[line.Message]++
	return nil
}

func (g *gate) WithAttrs([]slog.Attr) slog.Handler { return g }

func (g *gate) WithGroup(string) slog.Handler { return g }

// web keeps a connection for each of many who call at once.
var web = func() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 256
	return &http.Client{Transport: transport, Timeout: 70 * time.Second}
}()

// answer is an HTTP answer, read.
type answer struct {
	code   int
	header http.Header
	body   string
}

func (a answer) status() (s api.Status) {
	_ = json.Unmarshal([]byte(a.body), &s) // what is none has no ID
	return s
}

// call calls a gateway; an error is that of a connection.
func call(ctx context.Context, method, url, body string, headers ...string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		return answer{}, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := web.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(raw)}, err
}

// submit submits to a service of a gateway, and must be accepted.
func (h *house) submit(g *gate, service, body string, headers ...string) api.Status {
	h.Helper()
	a, err := call(h.Context(), "POST", g.url+"/v1/services/"+service+"/requests", body, headers...)
	if err != nil || a.code != http.StatusAccepted {
		h.Fatalf("submit: %d %s, %v", a.code, a.body, err)
	}
	return a.status()
}

// get reads a page of a gateway.
func (h *house) get(g *gate, path string) answer {
	h.Helper()
	a, err := call(h.Context(), "GET", g.url+path, "")
	if err != nil {
		h.Errorf("%s: %v", path, err)
	}
	return a
}

// announced waits until every gateway knows a service.
func (h *house) announced(service string) {
	h.Helper()
	for _, g := range h.gates {
		for h.get(g, "/v1/services/"+service).code != http.StatusOK && !h.Failed() {
			<-time.After(50 * time.Millisecond) // until the next look
		}
	}
}

// flows waits until a new request is accepted and answered by way of every gateway,
// and returns how long that took.
func (h *house) flows() time.Duration {
	h.Helper()
	return h.flowsBy(h.gates...)
}

// flowsBy is flows by way of some.
func (h *house) flowsBy(gates ...*gate) time.Duration {
	h.Helper()
	healed := time.Now()
	ctx, stop := context.WithTimeout(h.Context(), time.Minute)
	defer stop()
	var all sync.WaitGroup
	for _, g := range gates {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				once, stop := context.WithTimeout(ctx, 2*heal)
				body := fmt.Sprintf("does it flow? %s %d", g.url, n)
				a, err := call(once, "POST", g.url+"/v1/services/echo/requests", body, "Prefer", "wait=5")
				stop()
				if err == nil && a.code == http.StatusOK && a.body == body {
					return
				}
				<-time.After(20 * time.Millisecond) // until the next try
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		h.Fatal("no work flows")
	}
	return time.Since(healed)
}

// outcomes is how often the last event is in a stream.
func outcomes(stream string) int { return strings.Count("\n"+stream, "\nevent: outcome\n") }
