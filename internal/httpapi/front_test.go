package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/contracttest"
	"github.com/coatcheck/coatcheck/internal/httpapi"
	"github.com/coatcheck/coatcheck/internal/pull"
	"github.com/coatcheck/coatcheck/internal/quickredis"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/steward"
	"github.com/coatcheck/coatcheck/internal/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// front is a whole gateway behind an in-memory listener, on an embedded Redis,
// inside a bubble: nothing waits for a clock, and a minute costs nothing.
type front struct {
	t         *testing.T
	broker    *broker.Broker
	hub       *watch.Hub
	pull      *pull.Desk
	server    *httpapi.Server
	mini      *quickredis.Redis
	dialRedis func(ctx context.Context, network, addr string) (net.Conn, error)
	pipes     *pipes
	client    *http.Client
	log       *lockedBuffer
	workers   sync.WaitGroup // what echoes started

	mu   sync.Mutex    // guards the rest
	away bool          // Redis refuses everything
	slow time.Duration // Redis takes that long for a script
}

// inside runs a test against a gateway that knows the service "echo".
func inside(t *testing.T, test func(*testing.T, *front), change ...func(*httpapi.Options)) {
	t.Helper()
	contracttest.Read(t) // built outside: what it keeps outlives the bubble
	synctest.Test(t, func(t *testing.T) {
		mini, dial := redistest.Pipe(t)
		f := &front{t: t, mini: mini, dialRedis: dial, log: new(lockedBuffer)}
		stop := f.open(change...)
		settled()
		defer func() {
			f.redis(true)
			f.workers.Wait()
			stop()
			mini.Close()
			if t.Failed() {
				t.Logf("the gateway said:\n%s", tail(f.log.String(), 4000))
			}
		}()
		test(t, f)
	})
}

// open starts a gateway on f's Redis. stop ends it.
func (f *front) open(change ...func(*httpapi.Options)) (stop func()) {
	f.t.Helper()
	logger := slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b, err := broker.Open(f.t.Context(), broker.Options{
		URL: "redis://pipe:1", Dial: f.dialRedis, Logger: logger,
		Services: map[string]broker.ServiceConfig{"echo": {MaxAttempts: 2}, "small": {MaxQueued: 1}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.mini.Hook(f.hook) // there is no server before the first connection
	f.pipes, f.broker, f.hub, f.pull = newPipes(), b, watch.New(b, logger), pull.New(b, logger)
	o := httpapi.Options{Broker: b, Hub: f.hub, Pull: f.pull, Logger: logger}
	for _, c := range change {
		c(&o)
	}
	f.server = httpapi.New(o)
	server := httpapi.NewHTTPServer(f.server, logger)
	client := &http.Client{
		Transport:     contracttest.Transport(f.t, &http.Transport{DialContext: f.pipes.dial}),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	f.client = client
	ctx, end := context.WithCancel(context.Background())
	api, hub, desk, pipes := f.server, f.hub, f.pull, f.pipes
	var all sync.WaitGroup
	all.Go(func() { b.Run(ctx) })
	all.Go(func() { hub.Run(ctx) })
	all.Go(func() { desk.Run(ctx) })
	all.Go(func() { steward.New(b, logger).Run(ctx) })
	all.Go(func() { server.Serve(httpapi.Listener(pipes)) })
	return func() {
		hub.Drain()
		client.CloseIdleConnections()
		server.Close()
		if err := api.Wait(context.Background()); err != nil {
			f.t.Error(err)
		}
		end()
		all.Wait()
		b.Close()
	}
}

// settled lets all that can be done now be done: the bubble's clock moves only
// when everybody rests.
func settled() { time.Sleep(10 * time.Millisecond) }

func (f *front) hook(c *server.Peer, cmd string, _ ...string) bool {
	f.mu.Lock()
	away, slow := f.away, f.slow
	f.mu.Unlock()
	if away {
		c.WriteError("LOADING Redis key cc:{0} secret text")
	} else if cmd == "EVALSHA" {
		time.Sleep(slow)
	}
	return away
}

func (f *front) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// redis takes Redis away or gives it back, and waits until that is known.
func (f *front) redis(there bool) {
	change := false
	f.set(func() { change, f.away = f.away == there, !there })
	if change {
		time.Sleep(time.Second)
	}
}

// answer is a whole HTTP answer.
type answer struct {
	*http.Response
	body []byte
}

// call makes a call; headers are "Name: value".
func (f *front) call(method, path string, body io.Reader, headers ...string) answer {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), method, "http://gateway"+path, body)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	response, err := f.client.Do(r)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatalf("%s %s: read the answer: %v", method, path, err)
	}
	return answer{response, got}
}

func (f *front) get(path string, headers ...string) answer {
	f.t.Helper()
	return f.call(http.MethodGet, path, nil, headers...)
}

func (f *front) post(path, body string, headers ...string) answer {
	f.t.Helper()
	return f.call(http.MethodPost, path, strings.NewReader(body), headers...)
}

// submit hands in a request for echo and wants it accepted.
func (f *front) submit(body string, headers ...string) api.Status {
	f.t.Helper()
	a := f.post("/v1/services/echo/requests", body, headers...)
	if a.StatusCode != http.StatusAccepted {
		f.t.Fatalf("submit: %d %s", a.StatusCode, a.body)
	}
	return a.status(f.t)
}

func (a answer) status(t *testing.T) api.Status {
	t.Helper()
	var d api.Status
	if err := json.Unmarshal(a.body, &d); err != nil {
		t.Fatalf("no status document (%d): %s", a.StatusCode, a.body)
	}
	return d
}

// problem wants a problem of this type, and returns its detail.
func (a answer) problem(t *testing.T, slug string) string {
	t.Helper()
	kind, ok := api.ProblemNamed(slug)
	if !ok {
		t.Fatalf("there is no problem type %s", slug)
	}
	var p api.Problem
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Errorf("want the problem %s, got %d %s", slug, a.StatusCode, a.body)
		return ""
	}
	if p.Type != "/problems/"+slug || a.StatusCode != kind.Status || p.Status != kind.Status ||
		a.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("want the problem %s, got %d %s", slug, a.StatusCode, a.body)
	}
	if (a.Header.Get("Retry-After") != "") != kind.Retry {
		t.Errorf("%s: Retry-After is %q", slug, a.Header.Get("Retry-After"))
	}
	return p.Detail
}

// accepted wants n requests of echo to be open that no worker has seen.
func (f *front) accepted(n int) {
	f.t.Helper()
	time.Sleep(time.Second) // the age of a sample
	if q, err := f.broker.Queue(f.t.Context(), "echo"); err != nil || q.Depth != n {
		f.t.Errorf("%d requests are accepted, want %d; %v", q.Depth, n, err)
	}
}

// claim has a worker take one request.
func (f *front) claim() broker.Delivery {
	f.t.Helper()
	got, err := f.broker.Claim(f.t.Context(), "w1", []string{"echo"}, 1, 2*time.Second)
	if err != nil || len(got) != 1 {
		f.t.Fatalf("claim: %d, %v", len(got), err)
	}
	return got[0]
}

// send has the worker reply, and waits until that is settled.
func (f *front) send(d broker.Delivery, r broker.WorkerReply) {
	f.t.Helper()
	if err := f.broker.Send(f.t.Context(), d, r); err != nil {
		f.t.Fatal(err)
	}
	settled()
}

// echo answers one request with its own bytes, as soon as there is one.
func (f *front) echo(change ...func(*broker.WorkerReply)) {
	f.t.Helper()
	d := f.claim()
	r := broker.WorkerReply{Type: "final", ContentType: d.ContentType, Body: d.Body}
	for _, c := range change {
		c(&r)
	}
	f.send(d, r)
}

// echoes is echo beside the test, which ends after it.
func (f *front) echoes(change ...func(*broker.WorkerReply)) {
	f.workers.Go(func() { f.echo(change...) })
}

// pipes is a listener without sockets.
type pipes struct {
	conns chan net.Conn // dial sends, Accept receives
	done  chan struct{} // closed by Close
	once  sync.Once

	mu   sync.Mutex // guards open
	open []net.Conn // the clients' ends

	single atomic.Int64 // reads of a single byte, by the gateway
}

// end is the gateway's, of a pipe.
type end struct {
	net.Conn
	single *atomic.Int64
}

func (e end) Read(b []byte) (int, error) {
	if len(b) == 1 {
		e.single.Add(1)
	}
	return e.Conn.Read(b)
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	mine, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open = append(p.open, mine)
		return mine, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// hangUp has all clients leave.
func (p *pipes) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.Close()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return end{c, &p.single}, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "gateway", Net: "pipe"} }

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }
