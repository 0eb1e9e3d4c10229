package client_test

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

// free is a loopback address where nothing listens.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// What no time can mend is said at once, by every call.
func TestWrongAddressIsSaidAtOnce(t *testing.T) {
	tls := httptest.NewUnstartedServer(http.NotFoundHandler())
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	defer tls.Close()
	for name, c := range map[string]struct {
		base, want string
		noGateway  bool
	}{
		"nothing listens": {"http://" + free(t), "connection refused", true},
		"no such host":    {"http://gateway.invalid", "gateway.invalid", true},
		"no scheme":       {"localhost:8080", "must begin with http:// or https://", false},
		"another scheme":  {"redis://localhost", "must begin with http:// or https://", false},
		"empty":           {"", "must begin with http:// or https://", false},
		"unknown signer":  {tls.URL, "certificate", false},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := client.New(c.base).Submit(t.Context(), "echo", client.Request{})
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, client.ErrNoGateway) != c.noGateway {
				t.Errorf("%v", err)
			}
			for _, err := range client.New(c.base).Events(t.Context(), id) {
				if err == nil || errors.Is(err, client.ErrNoGateway) != c.noGateway {
					t.Errorf("events: %v", err)
				}
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// So is a proxy that is not there.
func TestWrongProxyIsSaidAtOnce(t *testing.T) {
	proxy := &url.URL{Scheme: "http", Host: free(t)}
	c := client.New("http://gateway.invalid", client.HTTP(&http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}}))
	began := time.Now()
	if _, err := c.Status(t.Context(), id); !errors.Is(err, client.ErrNoGateway) {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// A gateway that answered once and is gone is being restarted: that is waited for.
func TestRestartedGatewayIsWaitedFor(t *testing.T) {
	address := free(t)
	serve := func() *http.Server {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: answer(queued())}
		go s.Serve(l)
		return s
	}
	first := serve()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	refused := make(chan struct{}, 10)
	c := client.New("http://"+address, client.HTTP(&http.Client{Transport: watched{transport, refused}}))
	if _, err := c.Status(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	first.Close()
	var second *http.Server
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		<-refused
		second = serve()
	}()
	if s, err := c.Status(t.Context(), id); err != nil || s.Status != api.Queued {
		t.Errorf("%+v, %v", s, err)
	}
	<-restarted
	second.Close()
}

// One that is killed while a call rests there was no wrong address either.
func TestGatewayKilledInTheFirstCallIsWaitedFor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		if conn, err := l.Accept(); err == nil {
			conn.Read(make([]byte, 1))
			l.Close()
			conn.Close()
		}
	}()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	refused := make(chan struct{}, 10)
	c := client.New("http://"+l.Addr().String(), client.HTTP(&http.Client{Transport: watched{transport, refused}}))
	restarted := make(chan *http.Server, 1)
	go func() {
		<-refused // cut
		<-refused // nobody listens
		again, err := net.Listen("tcp", l.Addr().String())
		if err != nil {
			t.Error(err)
			close(restarted)
			return
		}
		s := &http.Server{Handler: answer(queued())}
		restarted <- s
		s.Serve(again)
	}()
	if s, err := c.Status(t.Context(), id); err != nil || s.Status != api.Queued {
		t.Errorf("%+v, %v", s, err)
	}
	<-killed
	if s := <-restarted; s != nil {
		s.Close()
	}
}

// watched tells of each call that got no answer.
type watched struct {
	http.RoundTripper
	failed chan<- struct{}
}

func (w watched) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := w.RoundTripper.RoundTrip(r)
	if err != nil {
		w.failed <- struct{}{}
	}
	return response, err
}
