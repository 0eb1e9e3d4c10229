package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

const (
	id      = "01a20a5f-355f-8000-919e-d506fa464119"
	address = "http://gateway.test"
)

// fake is a gateway that misbehaves as its script says, one handler a call; the
// last one answers all further calls. It runs without sockets, in a bubble.
type fake struct {
	script []http.HandlerFunc

	mu    sync.Mutex // guards calls
	calls []call
}

// call is what the fake was asked.
type call struct {
	at     time.Duration // since the first one
	method string
	path   string
	header http.Header
	body   string
}

// start serves the script; the client stops with the test.
func start(t *testing.T, f *fake, options ...client.Option) *client.Client {
	t.Helper()
	conns := make(chan net.Conn)
	closed := make(chan struct{})
	server := &http.Server{Handler: f, ErrorLog: log.New(io.Discard, "", 0)}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(piped{conns, closed, sync.OnceFunc(func() { close(closed) })}) })
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		select {
		case conns <- theirs:
			return ours, nil
		case <-closed:
			return nil, net.ErrClosed
		}
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
		serving.Wait()
	})
	return client.New(address, append([]client.Option{client.HTTP(&http.Client{Transport: transport})}, options...)...)
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	n := len(f.calls)
	f.calls = append(f.calls, call{time.Duration(time.Now().UnixNano()), r.Method, r.URL.RequestURI(), r.Header.Clone(), string(body)})
	f.mu.Unlock()
	f.script[min(n, len(f.script)-1)](w, r)
}

// asked is every call so far, timed from the first.
func (f *fake) asked() []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := append([]call(nil), f.calls...)
	for n := range out {
		out[n].at -= f.calls[0].at
	}
	return out
}

type piped struct {
	conns  chan net.Conn
	closed chan struct{}
	end    func()
}

func (p piped) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, errors.New("closed")
	}
}
func (p piped) Close() error   { p.end(); return nil }
func (p piped) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// What a fake may do.

func answer(s api.Status, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for n := 0; n+1 < len(header); n += 2 {
			w.Header().Set(header[n], header[n+1])
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set(api.HeaderCorrelationID, s.CorrelationID)
		json.NewEncoder(w).Encode(s)
	}
}

func problem(slug string, after int) http.HandlerFunc {
	kind, ok := api.ProblemNamed(slug)
	if !ok {
		panic("no problem " + slug)
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set(api.HeaderCorrelationID, id) // as a gateway does once it knows which request is meant
		if after > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(after))
		}
		w.WriteHeader(kind.Status)
		json.NewEncoder(w).Encode(kind.New(""))
	}
}

// hangUp cuts the connection before a byte of the answer.
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// cut cuts the connection in the middle of an answer.
func cut(status int, media, half string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		w.WriteHeader(status)
		io.WriteString(w, half)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func plain(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		io.WriteString(w, text)
	}
}

func queued() api.Status { return api.Status{CorrelationID: id, Service: "echo", Status: api.Queued} }

func succeeded() api.Status {
	s := queued()
	s.Status, s.FinishedAt, s.Events = api.Succeeded, api.Time(time.Now()), 1
	return s
}
