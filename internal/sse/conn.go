package sse

import (
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// take takes the connection from net/http, where it serves it by HTTP/1.1 and has
// read all of the request.
func (p *Parked) take(w http.ResponseWriter, r *http.Request) bool {
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	if server == nil || r.ProtoMajor != 1 || r.ProtoMinor < 1 {
		return false
	}
	if n, err := r.Body.Read(p.first[:]); n > 0 || err != io.EOF {
		return false
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	read, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	p.conn, p.read = conn, slices.Clone(read) // or its whole buffer would stay
	if again, ok := conn.(*resumed); ok {
		p.conn, p.read = again.Conn, append(p.read, again.read...)
	}
	if !r.Close && w.Header().Get("Connection") != "close" { // neither side said that this is all
		p.server = server
	}
	return true
}

// listen notices that the client hangs up, or asks for something else: then the
// stream goes on, and the request waits for its end.
func (p *Parked) listen() {
	hungUp := false
	if len(p.read) == 0 {
		n, _ := p.conn.Read(p.first[:])
		hungUp, p.read = n == 0, p.first[:n]
	}
	i := p.idle
	i.mu.Lock()
	p.heard = true
	last := p.ended
	p.keep = p.keep && !hungUp
	i.mu.Unlock()
	if last {
		p.giveBack()
	} else if hungUp {
		p.poke(gone)
	}
}

// release is what the stream does at its end. A connection that can be used on waits
// for its next request, as long as one would in net/http.
func (p *Parked) release(keep bool) {
	i := p.idle
	keep = keep && p.server != nil && !i.draining()
	i.mu.Lock()
	p.ended, p.keep = true, keep
	last := p.heard
	i.mu.Unlock()
	switch {
	case last:
		p.giveBack()
	case !keep:
		p.conn.Close() // which ends listen
	case p.server.IdleTimeout > 0:
		_ = p.conn.SetReadDeadline(time.Now().Add(p.server.IdleTimeout))
	}
}

// giveBack has the server answer the next request of a connection.
func (p *Parked) giveBack() {
	defer p.idle.forget(p)
	if !p.keep || p.idle.draining() {
		p.conn.Close()
		return
	}
	_ = p.conn.SetReadDeadline(time.Time{})
	_ = p.server.Serve(&handOver{conn: &resumed{p.conn, p.read}}) // it returns at once
}

// resumed is a connection of which something has been read.
type resumed struct {
	net.Conn
	read []byte
}

func (c *resumed) Read(b []byte) (int, error) {
	if len(c.read) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.read)
	c.read = c.read[n:]
	return n, nil
}

// handOver listens for a single connection, which is there already.
type handOver struct{ conn net.Conn }

func (h *handOver) Accept() (net.Conn, error) {
	conn := h.conn
	if h.conn = nil; conn == nil {
		return nil, io.EOF
	}
	return conn, nil
}

// Close is called at once by a server that shuts down.
func (h *handOver) Close() error {
	if h.conn == nil {
		return nil
	}
	return h.conn.Close()
}

func (h *handOver) Addr() net.Addr { return nowhere{} }

// nowhere is where a server is told that it listens.
type nowhere struct{}

func (nowhere) Network() string { return "tcp" }
func (nowhere) String() string  { return "" }
