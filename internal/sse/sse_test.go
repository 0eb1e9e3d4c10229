package sse_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/internal/sse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is a server whose streams are parked at once.
type place struct {
	*httptest.Server
	idle    *sse.Idle
	drain   chan struct{}
	open    chan *lines // streams as they are parked
	refused chan bool   // a stream that could not be parked
}

func newPlace(t *testing.T) *place {
	t.Helper()
	s := &place{drain: make(chan struct{}), open: make(chan *lines, 1), refused: make(chan bool, 1)}
	s.idle = sse.NewIdle(func() <-chan struct{} { return s.drain }, slog.New(slog.DiscardHandler))
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		l := &lines{stream: sse.Open(w, http.StatusOK), ended: make(chan error, 1)}
		l.stream.Send("first", "", []byte("1"))
		l.stream.Flush()
		if l.parked = s.idle.Park(l.stream, r, l, sse.HeartbeatEvery); l.parked == nil {
			s.refused <- true
			l.stream.End()
			return
		}
		s.open <- l
		l.parked.Begin()
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		s.idle.Wait(context.Background())
	})
	return s
}

// lines follows what a test says.
type lines struct {
	stream *sse.Stream
	parked *sse.Parked
	ended  chan error

	mu   sync.Mutex
	next []string
}

func (l *lines) say(line string) {
	l.mu.Lock()
	l.next = append(l.next, line)
	l.mu.Unlock()
	l.parked.Wake()
}

func (l *lines) CatchUp() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.next {
		switch line {
		case "panic":
			panic("of a follower")
		case "broken":
			return false, io.ErrUnexpectedEOF
		}
		l.stream.Send("line", "", []byte(line))
		if line == "last" {
			return true, nil
		}
	}
	l.next = nil
	return false, nil
}

func (l *lines) Ended(err error) { l.ended <- err }

// follow opens a stream and returns it behind its first event.
func (s *place) follow(t *testing.T) (*lines, *bufio.Reader, io.Closer) {
	t.Helper()
	answer, err := s.Client().Get(s.URL + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(answer.Body)
	want(t, in, "retry", "event: first", "data: 1")
	return <-s.open, in, answer.Body
}

// want reads lines that are not empty.
func want(t *testing.T, in *bufio.Reader, lines ...string) {
	t.Helper()
	for _, line := range lines {
		got := ""
		for got == "" {
			text, err := in.ReadString('\n')
			if err != nil {
				t.Fatalf("%v, want %q", err, line)
			}
			got = strings.TrimSpace(text)
		}
		if !strings.HasPrefix(got, line) {
			t.Fatalf("%q, want %q", got, line)
		}
	}
}

// TestConnectionGoesOn: after the end of a stream its connection serves other calls,
// and other streams.
func TestConnectionGoesOn(t *testing.T) {
	s := newPlace(t)
	for range 3 {
		l, in, _ := s.follow(t)
		l.say("a")
		want(t, in, "event: line", "data: a")
		l.say("b")
		l.say("last")
		want(t, in, "event: line", "data: b", "event: line", "data: last")
		if _, err := io.Copy(io.Discard, in); err != nil {
			t.Fatalf("after the last event: %v", err)
		}
		if err := <-l.ended; err != nil {
			t.Error(err)
		}
		reused := false
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }})
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/hello", nil)
		answer, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(answer.Body); string(body) != "hello" || err != nil || !reused {
			t.Errorf("%q, %v, on the same connection: %v", body, err, reused)
		}
		answer.Body.Close()
	}
}

// TestPipelined: a request that comes while the stream is open is answered after it,
// whether it came before the stream was parked or later.
func TestPipelined(t *testing.T) {
	const get = " HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, together := range []bool{true, false} {
		s := newPlace(t)
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		requests := "GET /stream" + get
		if together {
			requests += "GET /hello" + get
		}
		io.WriteString(conn, requests)
		l := <-s.open
		if !together {
			io.WriteString(conn, "GET /hello"+get)
		}
		l.say("last")
		in := bufio.NewReader(conn)
		for _, want := range []string{"data: last\n\n", "hello"} {
			answer, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(answer.Body); err != nil || !strings.HasSuffix(string(body), want) {
				t.Errorf("%q, %v; want %q", body, err, want)
			}
			answer.Body.Close()
		}
	}
}

// TestHangUp is noticed without a write.
func TestHangUp(t *testing.T) {
	s := newPlace(t)
	l, _, body := s.follow(t)
	body.Close()
	if err := <-l.ended; !errors.Is(err, sse.ErrHungUp) {
		t.Error(err)
	}
	l.parked.Wake() // harmless
}

// TestDrain ends streams as if they were over, and closes what they leave.
func TestDrain(t *testing.T) {
	s := newPlace(t)
	open, in, _ := s.follow(t)
	over, rest, _ := s.follow(t)
	over.say("last")
	io.Copy(io.Discard, rest)
	<-over.ended
	close(s.drain)
	if _, err := io.Copy(io.Discard, in); err != nil {
		t.Errorf("at the drain: %v", err)
	}
	if err := <-open.ended; err != nil {
		t.Error(err)
	}
	if err := s.idle.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	answer, err := s.Client().Get(s.URL + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	<-s.refused
}

// TestSlowReader is dropped, and holds nobody up meanwhile.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle := sse.NewIdle(func() <-chan struct{} { return nil }, slog.New(slog.DiscardHandler))
		parked := make(chan *lines, 1)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			l := &lines{stream: sse.Open(w, http.StatusOK), ended: make(chan error, 1)}
			l.stream.Flush()
			l.parked = idle.Park(l.stream, r, l, sse.HeartbeatEvery)
			l.parked.Begin()
			parked <- l
		})}
		conns := make(pipes, 1)
		go server.Serve(conns)
		defer server.Close()
		client, gateway := net.Pipe()
		defer client.Close()
		conns <- gateway
		io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		in := bufio.NewReader(client)
		want(t, in, "HTTP/1.1 200")
		for line := ""; !strings.HasPrefix(line, "retry"); line, _ = in.ReadString('\n') {
		}
		io.ReadFull(in, make([]byte, len("\n\r\n")))
		l, begun := <-parked, time.Now()
		l.say("a")
		for range 3 {
			l.parked.Wake()
		}
		if err := <-l.ended; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

// pipes is a listener for connections in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p pipes) Close() error { close(p); return nil }

func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// TestCut: who waits no longer cuts what is open.
func TestCut(t *testing.T) {
	s := newPlace(t)
	l, in, _ := s.follow(t)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := s.idle.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, in); err == nil {
		t.Error("a stream that was cut looks whole")
	}
	<-l.ended
}

// TestTrouble of one stream: an error ends it, and a panic breaks it off.
func TestTrouble(t *testing.T) {
	for trouble, whole := range map[string]bool{"broken": true, "panic": false} {
		s := newPlace(t)
		l, in, _ := s.follow(t)
		l.say(trouble)
		if _, err := io.Copy(io.Discard, in); (err == nil) != whole {
			t.Errorf("%s: %v", trouble, err)
		}
		if err := <-l.ended; err == nil {
			t.Errorf("%s ended without an error", trouble)
		}
	}
}

// TestNotParked: what has no connection of HTTP/1.1 keeps its handler.
func TestNotParked(t *testing.T) {
	s := newPlace(t)
	recorder := httptest.NewRecorder()
	s.Config.Handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/stream", nil))
	<-s.refused
	if got := recorder.Body.String(); !strings.HasSuffix(got, "data: 1\n\n") {
		t.Errorf("%q", got)
	}
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /stream HTTP/1.0\r\n\r\n")
	if got, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(got), "data: 1\n\n") {
		t.Errorf("%q, %v", got, err)
	}
	<-s.refused
}
