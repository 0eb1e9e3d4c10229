package client_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/demo"
	"github.com/coatcheck/coatcheck/internal/embedded"
	"github.com/coatcheck/coatcheck/internal/gateway"
)

// house is a real gateway with the demo services, and with one, nobody, that
// has no worker.
func house() (address string, stop func()) {
	redis, err := embedded.Start("127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	c := config.Default()
	c.DrainDelay = 0
	c.Services = map[string]config.Service{}
	for _, name := range []string{"echo", "progress", "fail", "sleep", "nobody"} {
		c.Services[name] = config.Service{}
	}
	quiet := slog.New(slog.DiscardHandler)
	ctx, end := context.WithCancel(context.Background())
	g, err := gateway.Start(ctx, gateway.Options{Config: c, RedisURL: redis.URL, Listener: listener, Logger: quiet})
	if err != nil {
		panic(err)
	}
	w := worker.New(redis.URL, worker.Logger(quiet), worker.Grace(0))
	demo.Register(w)
	var running sync.WaitGroup
	running.Go(func() { g.Run(ctx) })
	running.Go(func() { w.Run(ctx) })
	return "http://" + g.Addr().String(), func() {
		end()
		running.Wait()
		redis.Close()
	}
}

// proxied is a client whose answers are cut after so many bytes: of the first
// answer after cuts[0], and so on; later ones come whole.
func proxied(t *testing.T, address string, cuts ...int) *client.Client {
	t.Helper()
	target, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards cuts
	transport := &http.Transport{}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport, FlushInterval: -1, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
		ModifyResponse: func(r *http.Response) error {
			mu.Lock()
			defer mu.Unlock()
			if len(cuts) > 0 {
				r.Body, cuts = &broken{r.Body, cuts[0]}, cuts[1:]
			}
			return nil
		},
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(func() { server.Close(); transport.CloseIdleConnections() })
	return client.New(server.URL, client.HTTP(server.Client()))
}

// broken is a body that breaks off; what the gateway did stays done.
type broken struct {
	io.ReadCloser
	left int
}

func (b *broken) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("cut")
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func TestAnswerLostAfterTheCommit(t *testing.T) {
	address, stop := house()
	t.Cleanup(stop)
	c := proxied(t, address, 0, 20)
	s, err := c.Submit(t.Context(), "nobody", client.Request{Body: []byte("hi")})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Status(t.Context(), s.CorrelationID); err != nil || again.Status != api.Queued || again.QueuePosition > 1 {
		t.Errorf("%+v, %v: want the only one in the queue", again, err)
	}
	if s, err = c.Cancel(t.Context(), s.CorrelationID); err != nil || s.Status != api.Canceled {
		t.Errorf("cancel: %+v, %v", s, err)
	}
}

func TestEventsOfACutStream(t *testing.T) {
	address, stop := house()
	t.Cleanup(stop)
	whole := client.New(address)
	s, err := whole.Submit(t.Context(), "progress", client.Request{Body: []byte(`{"steps":8,"interval":"20ms"}`)})
	if err != nil {
		t.Fatal(err)
	}
	if s, err = whole.Wait(t.Context(), s.CorrelationID); err != nil || s.Status != api.Succeeded {
		t.Fatalf("%+v, %v", s, err)
	}
	var want []string
	for n := range 8 {
		want = append(want, "progress "+string(rune('1'+n)))
	}
	want = append(want, "outcome 9")
	for _, at := range []int{0, 700, 1100, 1555} { // before, between and inside of events
		var seen []string
		for e, err := range proxied(t, address, at, at).Events(t.Context(), s.CorrelationID) {
			if err != nil {
				t.Fatalf("cut after %d bytes: %v", at, err)
			}
			switch e.Kind {
			case "progress":
				seen = append(seen, "progress "+string(rune('0'+e.Event.Number)))
			case "outcome":
				seen = append(seen, "outcome "+string(rune('0'+e.Status.Events)))
			}
		}
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Errorf("cut after %d bytes: %s", at, diff)
		}
	}
}

// What the gateway says of a request is never taken for a reply of its worker,
// and a problem never for a status.
func TestRealAnswersAreToldApart(t *testing.T) {
	address, stop := house()
	t.Cleanup(stop)
	c := client.New(address)
	submit := func(service, body string) string {
		s, err := c.Submit(t.Context(), service, client.Request{ContentType: "application/problem+json", Body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		return s.CorrelationID
	}
	pending := submit("nobody", "")
	if r, err := c.Reply(t.Context(), pending); !errors.Is(err, client.ErrPending) {
		t.Errorf("pending: %+v, %v", r, err)
	}
	problemLike := `{"type":"/problems/gone","title":"mine"}`
	echoed, failed := submit("echo", problemLike), submit("fail", `{"message":"no"}`)
	for _, id := range []string{echoed, failed} {
		if _, err := c.Wait(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := c.Reply(t.Context(), echoed); err != nil || string(r.Body) != problemLike || r.StatusCode != 200 {
		t.Errorf("a reply like a problem: %+v, %v", r, err)
	}
	if err := c.Delete(t.Context(), pending); err != nil {
		t.Errorf("delete: %v", err)
	}
	var got []string
	note := func(doing string, err error) {
		p, _ := errors.AsType[api.Problem](err)
		got = append(got, doing+": "+strings.TrimPrefix(p.Type, api.ProblemPath))
	}
	_, err := c.Cancel(t.Context(), echoed)
	note("cancel what is over", err)
	_, err = c.Reply(t.Context(), failed)
	note("reply of what failed", err)
	_, err = c.Status(t.Context(), pending)
	note("status of what is gone", err)
	_, err = c.Wait(t.Context(), pending)
	note("wait for what is gone", err)
	_, err = c.Status(t.Context(), id)
	note("status of what never was", err)
	_, err = c.Submit(t.Context(), "unheard-of", client.Request{})
	note("submit to nobody", err)
	_, err = c.Submit(t.Context(), "echo", client.Request{Timeout: -1})
	note("a negative timeout", err)
	want := []string{
		"cancel what is over: already-terminal", "reply of what failed: reply-failed", "status of what is gone: gone", "wait for what is gone: gone",
		"status of what never was: not-found", "submit to nobody: unknown-service", "a negative timeout: invalid-option",
	}
	if !slices.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
}
