package httpapi_test

import (
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// Nobody watches whether the client of a submit hangs up; that of one that waits is
// watched, by net/http, which reads a single byte for it.
func TestHangUpIsWatchedForWhereItMatters(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		f.set(func() { f.slow = time.Millisecond }) // so that there is time for that
		for _, c := range []struct {
			what string
			want int64
			call func() answer
		}{
			{"submit", 0, func() answer { return f.post(echoRequests, "x") }},
			{"submit that waits", 1, func() answer { return f.post(echoRequests, "x", "Prefer: wait=1") }},
			{"submit after it", 0, func() answer { return f.post(echoRequests, "x") }},
		} {
			before := f.pipes.single.Load()
			if a := c.call(); a.StatusCode != 202 {
				t.Fatalf("%s: %d", c.what, a.StatusCode)
			}
			if got := f.pipes.single.Load() - before; got != c.want {
				t.Errorf("%s: %d reads of a single byte, want %d", c.what, got, c.want)
			}
		}
	})
}

// A deadline for reading holds, whenever it was set.
func TestDeadlinesOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		defer p.Close()
		go p.dial(t.Context(), "", "")
		c, err := httpapi.Listener(p).Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		read := func() (time.Duration, error) {
			began := time.Now()
			_, err := c.Read(make([]byte, 2))
			return time.Since(began), err
		}
		late := func(what string, want time.Duration) {
			t.Helper()
			if took, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || took != want {
				t.Errorf("%s: %v after %v, want after %v", what, err, took, want)
			}
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		late("set before", time.Second)
		late("over", 0)
		c.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Minute, func() { c.SetReadDeadline(time.Now().Add(time.Second)) })
		late("set meanwhile", time.Minute+time.Second)
		c.SetDeadline(time.Now().Add(2 * time.Second))
		late("both", 2*time.Second)
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		c.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Hour, p.hangUp)
		if took, err := read(); !errors.Is(err, io.EOF) || took != time.Hour {
			t.Errorf("no deadline: %v after %v", err, took)
		}
		if half, ok := c.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
			t.Error("it can't be closed by half")
		}
	})
}
