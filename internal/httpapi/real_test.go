package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/contracttest"
	"github.com/coatcheck/coatcheck/internal/httpapi"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/watch"
)

// TestOverSockets: what pipes can't show, buffers and resets of TCP.
func TestOverSockets(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	b, err := broker.Open(t.Context(), broker.Options{
		URL: redistest.Mini(t), Logger: quiet, Services: map[string]broker.ServiceConfig{"echo": {}},
	})
	if err != nil {
		t.Fatal(err)
	}
	hub := watch.New(b, quiet)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	server := httpapi.NewHTTPServer(httpapi.New(httpapi.Options{Broker: b, Hub: hub, Logger: quiet}), quiet)
	var all sync.WaitGroup
	all.Go(func() { b.Run(ctx) })
	all.Go(func() { hub.Run(ctx) })
	all.Go(func() { server.Serve(l) })
	t.Cleanup(func() { server.Shutdown(ctx); stop(); all.Wait(); b.Close() })
	address := l.Addr().String()

	t.Run("a body over the limit gets its answer while it is being sent", func(t *testing.T) {
		client := contracttest.Client(t)
		large := bytes.Repeat([]byte("x"), 20<<20)
		for range 10 {
			for _, body := range []io.Reader{bytes.NewReader(large), io.MultiReader(bytes.NewReader(large))} {
				response, err := client.Post("http://"+address+echoRequests, "text/plain", body)
				if err != nil {
					t.Fatalf("no answer: %v", err)
				}
				response.Body.Close()
				if response.StatusCode != http.StatusRequestEntityTooLarge {
					t.Errorf("%d", response.StatusCode)
				}
			}
		}
	})

	t.Run("who reads only after sending gets the answer, too", func(t *testing.T) {
		large := strings.Repeat("x", 11<<20)
		for path, want := range map[string]int{
			echoRequests: http.StatusRequestEntityTooLarge, "/v1/services/nobody/requests": http.StatusNotFound, "/v1/requests/x/cancel": http.StatusNotFound,
		} {
			for _, framed := range []string{
				fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(large), large),
				fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(large), large),
			} {
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: gateway\r\n"+framed); err != nil {
					t.Errorf("%s: send: %v", path, err)
				}
				response, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatalf("%s: no answer: %v", path, err)
				}
				if response.StatusCode != want {
					t.Errorf("%s: %d", path, response.StatusCode)
				}
				response.Body.Close()
				c.Close()
			}
		}
	})

	t.Run("a connection that is reset", func(t *testing.T) {
		for range 20 {
			reset(t, address, "Content-Length: 10\r\n\r\n12345")
			reset(t, address, "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")
			reset(t, address, "Content-Length: 5\r\n\r\nwhole") // accepted or not, nobody knows
		}
		response, err := contracttest.Client(t).Post("http://"+address+echoRequests, "text/plain", strings.NewReader("last"))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		for last := false; !last; {
			got, err := b.Claim(t.Context(), "w1", []string{"echo"}, 100, time.Second)
			if err != nil || len(got) == 0 {
				t.Fatalf("claim: %d, %v", len(got), err)
			}
			for _, d := range got {
				last = last || string(d.Body) == "last"
				if body := string(d.Body); body != "whole" && body != "last" {
					t.Errorf("%q was accepted", body)
				}
			}
		}
	})
}

// reset sends a submit and resets the connection once the gateway has read it.
func reset(t *testing.T, address, send string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	// The answer to the first call says that the second is there: both went in
	// one segment.
	io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n"+head+send)
	first, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	first.Body.Close()
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}
