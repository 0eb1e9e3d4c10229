package callback

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/api/webhook"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/quickredis"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the golden files anew")

const secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

var signer = func() *webhook.Signer {
	s, err := webhook.NewSigner(secret)
	if err != nil {
		panic(err)
	}
	return s
}()

var quiet = slog.New(slog.DiscardHandler)

// bench is a broker and a network in a bubble, where time passes only while
// everybody waits. Nobody does upkeep but the test.
type bench struct {
	*broker.Broker
	t     *testing.T
	redis *quickredis.Redis
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	net   *network
}

func bubble(t *testing.T, test func(*testing.T, *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, net: &network{receivers: map[string]http.HandlerFunc{}}}
		b.redis, b.dial = redistest.Pipe(t)
		b.Broker = b.gateway("a")
		test(t, b)
		b.net.close()
	})
}

// gateway opens one more broker on the same Redis.
func (b *bench) gateway(name string) *broker.Broker {
	b.t.Helper()
	opened, err := broker.Open(b.t.Context(), broker.Options{
		URL: "redis://bubble", Name: name, Dial: b.dial, Logger: quiet, Services: map[string]broker.ServiceConfig{"echo": {}},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { opened.Close() })
	return opened
}

// deliverer has b deliver into the bench's network.
func (b *bench) deliverer(on *broker.Broker) *Deliverer {
	b.t.Helper()
	guard, err := NewGuard(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	d, err := New(on, Options{Guard: guard, Secrets: []string{secret}, Version: "1.2.3", Logger: quiet})
	if err != nil {
		b.t.Fatal(err)
	}
	d.sender.transport.DialContext = b.net.dial
	b.t.Cleanup(d.sender.transport.CloseIdleConnections)
	return d
}

// run runs a deliverer; stop drains it.
func (b *bench) run(d *Deliverer) (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
}

// owe has a request succeed whose callback goes to url.
func (b *bench) owe(url string, change ...func(*broker.Submission)) correlation.ID {
	b.t.Helper()
	s := broker.Submission{
		Tenant: broker.DefaultTenant, Service: "echo", Body: []byte("hi"), Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Callback: &broker.Callback{URL: url, Events: []string{"succeeded", "failed", "timed_out", "canceled", "progress"}},
	}
	for _, c := range change {
		c(&s)
	}
	r, _, err := b.Submit(b.t.Context(), s)
	if err != nil {
		b.t.Fatal(err)
	}
	got, err := b.Claim(b.t.Context(), "w", []string{"echo"}, 1, time.Second)
	if err != nil || len(got) != 1 {
		b.t.Fatalf("claim: %d, %v", len(got), err)
	}
	b.reply(got[0], broker.WorkerReply{Type: "final", ContentType: "application/json", Body: []byte(`{"a": "<b>"}`)})
	b.redis.Del("cc:{0}:clocks") // so that nothing is due but what the deliverer wants
	return r.ID
}

func (b *bench) reply(d broker.Delivery, r broker.WorkerReply) {
	b.t.Helper()
	if err := b.Send(b.t.Context(), d, r); err != nil {
		b.t.Fatal(err)
	}
	if _, _, err := b.Settle(b.t.Context(), 0); err != nil {
		b.t.Fatal(err)
	}
}

// owed takes what is owed now.
func (b *bench) owed(on *broker.Broker) []broker.Intent {
	b.t.Helper()
	for range 2 { // the first claim ever makes the group
		got, err := on.ClaimIntents(b.t.Context(), 100, time.Millisecond)
		if err != nil {
			b.t.Fatal(err)
		}
		if len(got) > 0 {
			return got
		}
	}
	return nil
}

// nothingWaits checks that all that is owed was handed over.
func (b *bench) nothingWaits() {
	b.t.Helper()
	if waits, err := b.redis.Stream("cc:{0}:callbacks"); err != nil || len(waits) > 0 {
		b.t.Errorf("%d callbacks wait to be claimed, %v", len(waits), err)
	}
}

// sleepUntilDue waits until something is due in Redis and has it decided; false
// where nothing is.
func (b *bench) sleepUntilDue() bool {
	b.t.Helper()
	d, err := b.Decide(b.t.Context(), 0)
	if err != nil {
		b.t.Fatal(err)
	}
	if d.Next.IsZero() {
		return false
	}
	time.Sleep(time.Until(d.Next) + time.Millisecond)
	if _, err := b.Decide(b.t.Context(), 0); err != nil {
		b.t.Fatal(err)
	}
	return true
}

// network has receivers by host, reached without sockets.
type network struct {
	mu        sync.Mutex // guards the rest
	receivers map[string]http.HandlerFunc
	servers   []*http.Server
}

func (n *network) receive(host string, handler http.HandlerFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.receivers[host+":80"] = handler
}

func (n *network) dial(_ context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	handler := n.receivers[addr]
	if handler == nil {
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	ours, theirs := net.Pipe()
	server := &http.Server{Handler: handler}
	n.servers = append(n.servers, server)
	go server.Serve(&once{conn: theirs, closed: make(chan struct{})})
	return ours, nil
}

func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.servers {
		s.Close()
	}
}

// once is a listener with one connection.
type once struct {
	conn   net.Conn
	closed chan struct{} // closed by Close
	stop   sync.Once
}

func (o *once) Accept() (net.Conn, error) {
	if c := o.conn; c != nil {
		o.conn = nil
		return c, nil
	}
	<-o.closed
	return nil, net.ErrClosed
}

func (o *once) Close() error   { o.stop.Do(func() { close(o.closed) }); return nil }
func (o *once) Addr() net.Addr { return &net.TCPAddr{} }

// silent is a receiver that never answers.
func silent(_ http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body) // else the server would not see that the caller goes away
	<-r.Context().Done()
}

// told is what receivers were told, in order.
type told struct {
	mu    sync.Mutex // guards calls
	calls []call
}

type call struct {
	at     time.Time
	header http.Header
	body   string
}

// answer is a receiver that notes the call and verifies it.
func (h *told) answer(t *testing.T, status ...int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = webhook.Verify(r.Header, body, secret)
		}
		if err != nil {
			t.Errorf("a receiver was told: %v", err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.calls = append(h.calls, call{time.Now(), r.Header.Clone(), string(body)})
		w.WriteHeader(status[min(len(h.calls), len(status))-1])
	}
}

func (h *told) all() []call {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// The bytes on the wire, signature and all, are pinned: receivers depend on them.
func TestGoldenRequest(t *testing.T) {
	id, err := correlation.Parse("00dc6acf-ac00-8000-8000-3f0000000001")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2000, 1, 1, 0, 0, 0, 5e6, time.UTC)
	record := broker.Record{
		ID: id, Tenant: "default", Service: "echo", Status: broker.Succeeded, Attempt: 1, Worker: "w1",
		Created: at, Queued: at, Started: at.Add(time.Second), Finished: at.Add(2 * time.Second), Deadline: at.Add(time.Minute),
		Expires: at.Add(time.Hour), Events: 2, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Reply:    &broker.Reply{ContentType: "application/json", StatusCode: 200, Size: 12, Body: []byte(`{"a": "<b>"}`)},
		Callback: &broker.Callback{URL: "http://receiver.example/hook?token=t"},
	}
	event := broker.Event{Number: 1, Type: "progress", At: at.Add(1500 * time.Millisecond), ContentType: "application/json", Body: []byte(`{"percent":50}`)}
	running := record
	running.Status, running.Reply, running.Events, running.Finished, running.Expires = broker.Running, nil, 1, time.Time{}, time.Time{}

	tests := map[string]struct {
		intent broker.Intent
		record broker.Record
		event  *broker.Event
	}{
		"succeeded": {broker.Intent{ID: id, Type: "succeeded", Number: 2, Attempt: 1}, record, nil},
		"progress":  {broker.Intent{ID: id, Type: "progress", Number: 1, Attempt: 1}, running, &event},
	}
	redriven := record
	redriven.RetriedAs = "01a20f11-94d9-8000-91ca-65b0340cf386"
	first, _ := compose(tests["succeeded"].intent, record, nil, "")
	if again, err := compose(tests["succeeded"].intent, redriven, nil, ""); err != nil || string(again.body) != string(first.body) {
		t.Errorf("a callback that comes again after a redrive differs from the first (%v):\n%s", err, again.body)
	}
	for name, test := range tests {
		synctest.Test(t, func(t *testing.T) { // the clock, and so the signature, is always the same
			m, err := compose(test.intent, test.record, test.event, "https://gateway.example")
			if err != nil {
				t.Fatal(err)
			}
			document, err := broker.EncodeJSON(broker.Document(test.record, "https://gateway.example"))
			if err != nil {
				t.Fatal(err)
			}
			if inside := strings.TrimSuffix(string(document), "}"); !strings.Contains(string(m.body), `"data":`+inside) {
				t.Errorf("%s: the status document differs from the one of a poll", name)
			}
			if !json.Valid(m.body) {
				t.Errorf("%s: the body is no JSON: %s", name, m.body)
			}
			sender := newSender(&Guard{}, signer, "1.2.3")
			request, err := sender.request(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			var wire strings.Builder
			if err := request.Write(&wire); err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(wire.String(), "\r\n", "\n")
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			parsed, err := http.ReadRequest(bufio.NewReader(strings.NewReader(wire.String())))
			if err != nil {
				t.Fatal(err)
			}
			if err := webhook.Verify(parsed.Header, m.body, secret); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// Progress and outcome are told, in JSON that holds the status document.
func TestTellsProgressAndOutcome(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var receiver told
		b.net.receive("r.example", receiver.answer(t, 204))
		r, _, err := b.Submit(t.Context(), broker.Submission{
			Tenant: broker.DefaultTenant, Service: "echo",
			Callback: &broker.Callback{URL: "http://r.example/", Events: []string{"succeeded", "progress"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		stop := b.run(b.deliverer(b.Broker))
		got, err := b.Claim(t.Context(), "w", []string{"echo"}, 1, time.Second)
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		b.reply(got[0], broker.WorkerReply{Type: "progress", ContentType: "application/json", Body: []byte(`{"percent":50}`)})
		time.Sleep(2 * time.Second)
		b.reply(got[0], broker.WorkerReply{Type: "final", ContentType: "text/plain", Body: []byte("done")})
		time.Sleep(2 * time.Second)
		stop()

		var lines []string
		for _, c := range receiver.all() {
			var body struct {
				Type string
				Data struct {
					Status string
					Events int
					Event  *struct {
						Number int
						Body   any
					}
					Reply *struct{ Body any }
				}
			}
			if err := json.Unmarshal([]byte(c.body), &body); err != nil {
				t.Fatal(err)
			}
			line := fmt.Sprintf("%s %s %d", body.Type, body.Data.Status, body.Data.Events)
			if e := body.Data.Event; e != nil {
				line += fmt.Sprint(" event ", e.Number, " ", e.Body)
			}
			if r := body.Data.Reply; r != nil {
				line += fmt.Sprint(" reply ", r.Body)
			}
			lines = append(lines, line)
			if id, number := c.header.Get("webhook-id"), fmt.Sprint(r.ID, ".", body.Data.Events); id != number {
				t.Errorf("webhook-id %q, want %q", id, number)
			}
		}
		want := []string{"request.progress running 1 event 1 map[percent:50]", "request.succeeded succeeded 2 reply done"}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		if left := b.owed(b.Broker); len(left) != 0 {
			t.Errorf("still owed: %v", left)
		}
	})
}
