package linear_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/gateway"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	service = "echo"
	short   = 400 * time.Millisecond // timeout of a request that nobody is quick enough for, mostly
	long    = 30 * time.Second       // of all others: nothing ends by it
	clients = 5                      // a submit is two operations, and all that go on at once have 2^n orders
	heals   = 20 * time.Second       // then everything must have its outcome, on a busy machine too
)

// house is three gateways on a Redis, each with a network of its own that breaks, and
// what was asked of them.
type house struct {
	*testing.T
	redis *redistest.Redis
	begun time.Time
	gates [3]*gate

	mu      sync.Mutex // guards the rest
	random  *rand.Rand
	history []porcupine.Operation
	tickets []*ticket
	breaks  int
}

// gate is a gateway, at an address that it keeps for its life.
type gate struct {
	proxy *redistest.Proxy

	mu   sync.Mutex // guards the rest
	url  string
	stop func()
}

// ticket is a request as its clients know it.
type ticket struct {
	key     string
	timeout time.Duration
	mu      sync.Mutex // guards the rest
	id      string     // "" where nobody was told
	asked   bool       // somebody did
}

func open(t *testing.T, seed uint64) *house {
	h := &house{T: t, redis: redistest.Start(t), begun: time.Now(), random: rand.New(rand.NewPCG(seed, 0))}
	for i := range h.gates {
		h.gates[i] = &gate{proxy: h.redis.Proxy(t)}
		h.start(h.gates[i])
	}
	t.Cleanup(func() {
		var all sync.WaitGroup
		for _, g := range h.gates {
			g.proxy.Heal()
			all.Go(g.stop)
		}
		all.Wait()
	})
	return h
}

// start runs a gateway, which is told to end by its stop.
func (h *house) start(g *gate) {
	h.Helper()
	c := config.Default()
	c.Defaults.Lease, c.Defaults.Timeout, c.DrainTimeout = 2*long, long, time.Second
	c.Services = map[string]config.Service{service: {}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.Fatal(err)
	}
	started, err := gateway.Start(h.Context(), gateway.Options{Config: c, RedisURL: g.proxy.URL, Listener: l, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		h.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		_ = started.Run(ctx) // that a drain was cut short is part of it
		close(ended)
	}()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.url, g.stop = "http://"+l.Addr().String(), func() { stop(); <-ended }
}

func (g *gate) address() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.url
}

// draw is a number below n.
func (h *house) draw(n int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.random.IntN(n)
}

func (h *house) now() int64 { return int64(time.Since(h.begun)) }

// did adds an operation to the history. Where nobody heard of it, it has no end.
func (h *house) did(client int, begun int64, in asked, out answered) {
	end := h.now()
	if out.verdict == "" && in.do != "claim" {
		end = never
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.history = append(h.history, porcupine.Operation{ClientId: client, Input: in, Call: begun, Output: out, Return: end})
}

var web = func() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}()

// ask calls a gateway, and reads the status that it answers with; code is 0 where it
// did not answer.
func (h *house) ask(g *gate, method, path, body string, headers ...string) (code int, s state) {
	r, err := http.NewRequestWithContext(h.Context(), method, g.address()+path, strings.NewReader(body))
	if err != nil {
		h.Error(err)
		return 0, state{}
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := web.Do(r)
	if err != nil {
		return 0, state{}
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, state{}
	}
	var doc api.Status
	if response.StatusCode < 300 {
		if err := json.Unmarshal(raw, &doc); err != nil {
			h.Errorf("%s %s: %s", method, path, raw)
		}
		s = state{id: doc.CorrelationID, status: string(doc.Status)}
		if len(doc.Reply.Body) > 0 {
			s.reply = strings.Trim(string(doc.Reply.Body), `"`) // of text
		}
	}
	return response.StatusCode, s
}

// summary counts what is in a history.
func (h *house) summary(history []porcupine.Operation) string {
	n, unheard := map[string]int{}, 0
	for _, o := range history {
		n[o.Input.(asked).do+" "+o.Output.(answered).verdict]++
		if o.Return == never && (o.Input.(asked).do == "submit" || o.Input.(asked).do == "cancel") {
			unheard++
		}
	}
	return fmt.Sprintf("%d requests, %d operations, %d of them of unknown effect, %d faults; %v", len(h.tickets), len(history), unheard, h.breaks, n)
}
