package main

import (
	"bufio"
	"io"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
)

// tap stands between a process and Redis and counts the commands that go through.
// Redis' own counts can't tell: total_commands_processed and commandstats count
// what scripts call as well. A tap costs time, so nothing else is measured
// meanwhile.
type tap struct {
	to string
	l  net.Listener

	mu   sync.Mutex // guards sent
	sent map[string]int
}

func newTap(to string) (*tap, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &tap{to: to, l: l, sent: map[string]int{}}
	go t.accept()
	return t, nil
}

func (t *tap) url() string { return "redis://" + t.l.Addr().String() }

func (t *tap) stop() {
	if t != nil {
		t.l.Close()
	}
}

func (t *tap) accept() {
	for {
		from, err := t.l.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", t.to)
		if err != nil {
			from.Close()
			continue
		}
		go func() {
			defer from.Close()
			defer to.Close()
			_, _ = io.Copy(from, to)
		}()
		go func() {
			defer to.(*net.TCPConn).CloseWrite() // answers may still come
			t.count(io.TeeReader(from, to))
		}()
	}
}

// count reads commands as clients write them: arrays of bulk strings.
func (t *tap) count(r io.Reader) {
	in := bufio.NewReaderSize(r, 64<<10)
	length := func(kind byte) (int, bool) {
		line, err := in.ReadString('\n')
		if err != nil || line[0] != kind {
			return 0, false
		}
		n, err := strconv.Atoi(strings.TrimSpace(line[1:]))
		return n, err == nil
	}
	for {
		parts, ok := length('*')
		if !ok {
			_, _ = io.Copy(io.Discard, in) // what this can't read must reach Redis all the same
			return
		}
		for i := range parts {
			n, ok := length('$')
			if !ok {
				return
			}
			if i > 0 {
				_, err := in.Discard(n + 2)
				if err != nil {
					return
				}
				continue
			}
			name := make([]byte, n+2)
			if _, err := io.ReadFull(in, name); err != nil {
				return
			}
			t.mu.Lock()
			t.sent[strings.ToLower(string(name[:n]))]++
			t.mu.Unlock()
		}
	}
}

// counts are the commands so far, by name.
func (t *tap) counts() map[string]int {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.sent)
}
