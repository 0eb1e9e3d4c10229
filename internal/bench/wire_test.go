package bench

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestHead(t *testing.T) {
	for text, want := range map[string]answer{
		"HTTP/1.1 202 Accepted\r\ncontent-length: 7\r\nX-CORRELATION-ID: abc\r\nRetry-After: 3\r\nEtag: W/\"a\"\r\n\r\n": {status: 202, length: 7, id: "abc", retryAfter: 3 * time.Second},
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n":                                     {status: 200, length: -1, chunked: true, closes: true},
		"HTTP/1.1 204 No Content\r\n\r\n": {status: 204},
		"HTTP/1.0 200 OK\r\n\r\n":         {status: 200, length: -1},
	} {
		c := conn{in: bufio.NewReader(strings.NewReader(text))}
		if got, err := c.head(); got != want || err != nil {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "HTTP/1.1 200", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n"} {
		c := conn{in: bufio.NewReader(strings.NewReader(text))}
		if got, err := c.head(); err == nil {
			t.Errorf("%q is taken for %+v", text, got)
		}
	}
}

func TestEvents(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	text := "retry: 1000\n\nevent: status\ndata: a\n\n: heartbeat\n\nevent: progress\nid: 1\ndata: " + long + "\n\nevent: outcome\nid: 2\ndata: b\ndata: c\n\nevent: cut"
	var got []string
	err := readEvents(bufio.NewReaderSize(strings.NewReader(text), 64), func(e event) {
		got = append(got, e.name+" "+string(e.data))
	})
	want := []string{"status a", "progress " + long, "outcome bc"}
	if err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%v: %.100q", err, got)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nevent: a\ndata: b\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, stream := range []bool{false, true} {
			c := conn{in: bufio.NewReader(bytes.NewReader(text))}
			a, err := c.head()
			switch {
			case err != nil:
			case stream:
				_ = c.events(a, func(event) {})
			case a.length < 1<<20: // more is only announced
				_, _ = c.body(a)
			}
		}
	})
}

func TestPayloads(t *testing.T) {
	p := newPayload(MinBody)
	seen := map[string]bool{}
	for _, n := range []int{0, 1, 10, 999_999_999_999} {
		body := p.of(n)
		if len(body) != MinBody || seen[string(body)] {
			t.Errorf("%d: %s", n, body)
		}
		seen[string(body)] = true
	}
	if bytes.Equal(p.of(1), newPayload(MinBody).of(1)) {
		t.Error("two runs have the same bodies")
	}
}
