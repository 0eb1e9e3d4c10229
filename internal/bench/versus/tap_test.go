package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTapCounts: commands are counted by their names, whatever is in them, and
// everything passes as it was.
func TestTapCounts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	received := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		all, _ := io.ReadAll(c)
		received <- string(all)
		fmt.Fprint(c, "+OK\r\n")
	}()
	tap, err := newTap(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tap.stop()
	c, err := net.Dial("tcp", tap.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := "*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$14\r\n*1\r\n$4\r\nPING\r\n\r\n*1\r\n$4\r\nping\r\n"
	fmt.Fprint(c, sent)
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := <-received; got != sent {
		t.Errorf("Redis got %q", got)
	}
	if answer, err := bufio.NewReader(c).ReadString('\n'); answer != "+OK\r\n" {
		t.Errorf("the client got %q, %v", answer, err)
	}
	if diff := cmp.Diff(map[string]int{"ping": 2, "set": 1}, tap.counts()); diff != "" {
		t.Error(diff)
	}
}

func TestMedians(t *testing.T) {
	f := found{"a": {{rate: 1}, {rate: 30}, {rate: 2}}, "b": {{rate: 2}, {rate: 10}, {rate: 8}}}
	if got := f.of("a", rate); got != 2 {
		t.Errorf("median %v, want 2", got)
	}
	if got := f.ratio("a", "b", rate); got != 0.5 { // of 0.5, 3 and 0.25: what happened in a round happened to both
		t.Errorf("ratio %v, want 0.5", got)
	}
	if median([]float64{4, 1}) != 2.5 || median(nil) != 0 {
		t.Error("medians of two and of none")
	}
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		bound bound
		value float64
		met   bool
		text  string
	}{
		{atLeast(0.45, ""), 0.45, true, "≥ 0.45"},
		{atLeast(0.45, ""), 0.44, false, "≥ 0.45"},
		{atMost(800, " B"), 800, true, "≤ 800 B"},
		{atMost(3, " ms"), 3.1, false, "≤ 3 ms"},
		{atMost(0, ""), 1, false, "≤ 0"},
	} {
		if c.bound.met(c.value) != c.met || c.bound.text() != c.text {
			t.Errorf("%v of %+v: %v, %q", c.value, c.bound, c.bound.met(c.value), c.bound.text())
		}
	}
	for v, want := range map[float64]string{12345.6: "12346", 12.34: "12.3", 1.234: "1.23", 2: "2", 0: "0"} {
		if got := number(v); got != want {
			t.Errorf("%v is shown as %s, want %s", v, got, want)
		}
	}
}
