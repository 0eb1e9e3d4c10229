package faults_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coatcheck/coatcheck/internal/fleet"
)

const probeEvery = 250 * time.Millisecond // of a balancer, at /readyz

// balancer knows which gateways take calls, as what stands before them in the field
// does: by what /readyz says.
type balancer struct {
	mu    sync.Mutex // guards the rest
	ready []string   // host:port
	next  int
}

// balance probes gateways until the test ends.
func balance(r *round, all []fleet.Server) *balancer {
	b := &balancer{}
	ctx, stop := context.WithCancel(context.Background())
	var probing sync.WaitGroup
	for _, g := range all {
		addr := strings.TrimPrefix(g.URL, "http://")
		b.ready = append(b.ready, addr)
		probing.Go(func() {
			probe := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			for ctx.Err() == nil {
				answer, err := probe.Get(g.URL + "/readyz")
				if err == nil {
					answer.Body.Close()
				}
				b.mark(addr, err == nil && answer.StatusCode == http.StatusOK)
				<-time.After(probeEvery)
			}
		})
	}
	r.Cleanup(func() { stop(); probing.Wait() })
	return b
}

func (b *balancer) mark(addr string, ready bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := slices.Index(b.ready, addr)
	switch {
	case ready && at < 0:
		b.ready = append(b.ready, addr)
	case !ready && at >= 0:
		b.ready = slices.Delete(b.ready, at, at+1)
	}
}

// pick is the address of a gateway for a new connection.
func (b *balancer) pick() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ready) == 0 {
		return ""
	}
	b.next++
	return b.ready[b.next%len(b.ready)]
}

// wire is one keep-alive connection of a client that tries nothing twice by itself: it
// dials where the balancer says, keeps the connection for as long as the gateway does
// not ask for another, and takes every break of it for what it is.
type wire struct {
	to   *balancer
	addr string
	c    net.Conn // nil: none is open
	in   *bufio.Reader
}

var (
	errNobody = errors.New("no gateway takes the connection")   // and nothing was sent
	errBroken = errors.New("the connection broke under a call") // what became of it is unknown
)

// open connects, where there is no connection.
func (w *wire) open() error {
	if w.c != nil {
		return nil
	}
	w.addr = w.to.pick()
	c, err := net.DialTimeout("tcp", w.addr, patience)
	if err != nil {
		if w.addr != "" && !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%w: %s: %w", errBroken, w.addr, err)
		}
		return errNobody
	}
	w.c, w.in = c, bufio.NewReader(c)
	return nil
}

func (w *wire) close() {
	if w.c != nil {
		w.c.Close()
		w.c = nil
	}
}

// begin sends a call and reads the head of its answer.
func (w *wire) begin(method, path, body string, headers ...string) (*http.Response, error) {
	if err := w.open(); err != nil {
		return nil, err
	}
	r, err := http.NewRequest(method, "http://"+w.addr+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	_ = w.c.SetDeadline(time.Now().Add(time.Minute))
	answer := (*http.Response)(nil)
	if err = r.Write(w.c); err == nil {
		answer, err = http.ReadResponse(w.in, r)
	}
	if err != nil {
		addr := w.addr
		w.close()
		return nil, fmt.Errorf("%w: %s %s at %s: %w", errBroken, method, path, addr, err)
	}
	return answer, nil
}

// call is a whole call.
func (w *wire) call(method, path, body string, headers ...string) (answer, error) {
	begun, err := w.begin(method, path, body, headers...)
	if err != nil {
		return answer{}, err
	}
	defer begun.Body.Close()
	raw, err := io.ReadAll(begun.Body)
	if err != nil {
		err = fmt.Errorf("%w: %s %s at %s, in its answer: %w", errBroken, method, path, w.addr, err)
	}
	if err != nil || begun.Close {
		w.close()
	}
	return answer{begun.StatusCode, begun.Header, string(raw)}, err
}
