package redistest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// A proxy passes and breaks what it is told to. The peer here sends back what it
// gets.
func TestProxy(t *testing.T) {
	tests := map[string]struct {
		fault func(*Proxy)
		want  string // what comes back of "hello" within a moment
		ends  error  // how the connection ends then; nil: it does not
		heals string // what comes back, of it and of " world", after Heal
	}{
		"none":      {func(*Proxy) {}, "hello", nil, "hello world"},
		"hold":      {(*Proxy).Hold, "", nil, "hello world"},
		"reset":     {(*Proxy).Reset, "", syscall.ECONNRESET, ""},
		"half-open": {(*Proxy).Forget, "", nil, ""},
		"trickle":   {func(p *Proxy) { p.Trickle(time.Hour) }, "h", nil, "hello world"},
		"cut":       {func(p *Proxy) { p.Cut(func() int { return 3 }) }, "hel", syscall.ECONNRESET, ""},
		"lose":      {func(p *Proxy) { p.Lose(func(b []byte) bool { return bytes.Contains(b, []byte("ell")) }) }, "", syscall.ECONNRESET, ""},
		"lose other": {
			func(p *Proxy) { p.Lose(func(b []byte) bool { return bytes.Contains(b, []byte("x")) }) }, "hello", nil,
			"hello world",
		},
		"mute": {func(p *Proxy) { p.Mute(func(b []byte) bool { return bytes.Contains(b, []byte("ell")) }) }, "", nil, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := echoed(t)
			c, err := net.Dial("tcp", p.listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			said(t, c, "first", "first") // it is a link by now
			test.fault(p)
			_, wrote := c.Write([]byte("hello"))
			got, err := heard(c, len(test.want))
			if got != test.want || !errors.Is(errors.Join(wrote, err), cause(test.ends)) {
				t.Errorf("came back: %q, %v, %v; want %q, %v", got, wrote, err, test.want, test.ends)
			}
			if test.ends != nil {
				return
			}
			p.Heal()
			c.Write([]byte(" world"))
			more, _ := heard(c, len(test.heals)-len(got))
			if got+more != test.heals {
				t.Errorf("after it healed: %q, want %q", got+more, test.heals)
			}
			again, err := net.Dial("tcp", p.listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			said(t, again, "new", "new")
		})
	}
}

// echoed is a proxy in front of a peer that sends back what it gets.
func echoed(t *testing.T) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	return attach(t, "redis://"+l.Addr().String(), nil, nil).Proxy(t)
}

func cause(ends error) error {
	if ends == nil {
		return os.ErrDeadlineExceeded // nothing more came
	}
	return ends
}

// heard is what comes, at least so many bytes if it can be, and how it ended.
func heard(c net.Conn, least int) (string, error) {
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	first := make([]byte, least)
	n, err := io.ReadFull(c, first)
	if err != nil {
		return string(first[:n]), err
	}
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // what comes after it is one too many
	more, err := io.ReadAll(c)
	return string(first) + string(more), err
}

func said(t *testing.T, c net.Conn, text, want string) {
	t.Helper()
	c.Write([]byte(text))
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("came back: %q, %v", got, err)
	}
}
