package quickredis

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/alicebob/miniredis/v2/server"
)

// Direct is a connection in memory whose commands run in the goroutine that writes
// them: nothing is handed over, so it is quick, and what happens next is decided by
// who calls and not by chance. One goroutine at a time may use it. Reading before
// there is an answer is a timeout. It takes no SUBSCRIBE.
func (r *Redis) Direct() (net.Conn, error) {
	first, err := r.Dial() // so that there is a server
	if err != nil {
		return nil, err
	}
	first.Close()
	d := &direct{redis: r}
	d.peer = server.NewPeer(bufio.NewWriter(&d.answers))
	return d, nil
}

type direct struct {
	redis   *Redis
	peer    *server.Peer
	asked   []byte // of a command that is not complete
	answers bytes.Buffer
	closed  bool
}

func (d *direct) Write(p []byte) (int, error) {
	if d.closed {
		return 0, net.ErrClosed
	}
	d.asked = append(d.asked, p...)
	rest := d.asked
	for {
		command, more, ok := readCommand(rest)
		if !ok {
			break
		}
		rest = more
		d.redis.server.Dispatch(d.peer, command)
		d.peer.Flush()
	}
	d.asked = append(d.asked[:0], rest...)
	return len(p), nil
}

func (d *direct) Read(p []byte) (int, error) {
	switch {
	case d.closed:
		return 0, io.EOF
	case d.answers.Len() == 0:
		return 0, os.ErrDeadlineExceeded
	}
	return d.answers.Read(p)
}

func (d *direct) Close() error {
	d.closed = true
	d.redis.forget(d.peer)
	return nil
}

func (*direct) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*direct) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*direct) SetDeadline(time.Time) error      { return nil }
func (*direct) SetReadDeadline(time.Time) error  { return nil }
func (*direct) SetWriteDeadline(time.Time) error { return nil }

// readCommand reads what a client sends: an array of strings. ok is false where it is
// not complete.
func readCommand(b []byte) (words []string, rest []byte, ok bool) {
	n, b, ok := readLength(b, '*')
	for range n {
		size, after, whole := readLength(b, '$')
		if !whole || len(after) < size+2 {
			return nil, nil, false
		}
		words, b = append(words, string(after[:size])), after[size+2:]
	}
	return words, b, ok
}

func readLength(b []byte, kind byte) (n int, rest []byte, ok bool) {
	end := bytes.IndexByte(b, '\n')
	if end < 3 || b[0] != kind {
		return 0, nil, false
	}
	n, err := strconv.Atoi(string(b[1 : end-1]))
	return n, b[end+1:], err == nil
}
