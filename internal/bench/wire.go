package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Limits of a connection.
const (
	dialTimeout = 5 * time.Second
	idleLimit   = 30 * time.Second // older ones may be closed by the other side while a call is on its way
	maxAnswer   = 128 << 20        // bytes of one answer
	maxLine     = 64 << 10         // of headers; a gateway sends a few hundred bytes
)

// target is a gateway.
type target struct {
	addr string // host:port
	host string // as the Host header has it
	path string // before every path, "" or "/prefix"
	tls  *tls.Config
}

func parseTarget(raw string) (target, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return target{}, fmt.Errorf("%w: gateway %q is no http:// or https:// URL", ErrOptions, raw)
	}
	t := target{host: u.Host, path: strings.TrimRight(u.EscapedPath(), "/")}
	port := u.Port()
	if u.Scheme == "https" {
		t.tls = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
		if port == "" {
			port = "443"
		}
	}
	if port == "" {
		port = "80"
	}
	t.addr = net.JoinHostPort(u.Hostname(), port)
	return t, nil
}

// conn is one keep-alive connection that speaks as much HTTP/1.1 as a load needs.
// net/http's client takes two more goroutines a connection and three times the
// CPU for a call, which on a shared machine would be taken from the gateway.
type conn struct {
	to   target
	ctx  context.Context
	c    net.Conn // nil: none is open
	stop func() bool
	in   *bufio.Reader
	used time.Time

	lines *bufio.Reader // over the chunks of a stream
	buf   []byte        // the last body; used again by the next call
}

// answer is the head of an answer.
type answer struct {
	status     int
	id         string
	retryAfter time.Duration
	length     int // -1 for a body that ends with the connection
	chunked    bool
	closes     bool
}

func (c *conn) open() error {
	if c.c != nil && time.Since(c.used) < idleLimit {
		return nil
	}
	c.close()
	d := net.Dialer{Timeout: dialTimeout}
	raw, err := d.DialContext(c.ctx, "tcp", c.to.addr)
	if err != nil {
		return err
	}
	if c.to.tls != nil {
		raw = tls.Client(raw, c.to.tls)
	}
	c.c = raw
	c.stop = context.AfterFunc(c.ctx, func() { raw.Close() })
	if c.in == nil {
		c.in = bufio.NewReader(nil)
	}
	c.in.Reset(raw)
	return nil
}

func (c *conn) close() {
	if c.c != nil {
		c.stop()
		c.c.Close()
		c.c = nil
	}
}

// call sends a whole request and reads the head of its answer, until deadline.
// Its body must be read before the next call. sent says whether the gateway may
// have got it.
func (c *conn) call(request []byte, deadline time.Time) (a answer, sent bool, err error) {
	if err := c.open(); err != nil {
		return a, false, err
	}
	if err := c.c.SetDeadline(deadline); err != nil {
		c.close()
		return a, false, err
	}
	if _, err := c.c.Write(request); err != nil {
		c.close()
		return a, true, err
	}
	if a, err = c.head(); err != nil {
		c.close()
	}
	return a, true, err
}

var (
	errNotHTTP = errors.New("the answer is not HTTP/1.1")
	errTooLong = errors.New("the answer is too long")
)

func (c *conn) head() (answer, error) {
	a := answer{length: -1}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return a, err
	}
	if len(line) < len("HTTP/1.1 200") || string(line[:7]) != "HTTP/1." {
		return a, errNotHTTP
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, errNotHTTP
	}
	for read := 0; ; read += len(line) {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return a, err
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			break
		}
		if read > maxLine {
			return a, errTooLong
		}
		at := bytes.IndexByte(line, ':')
		if at < 0 {
			return a, errNotHTTP
		}
		a.header(line[:at], bytes.TrimSpace(line[at+1:]))
	}
	if a.status == 204 || a.status == 304 {
		a.length, a.chunked = 0, false
	}
	return a, nil
}

// header keeps what matters here. The length tells most of them apart.
func (a *answer) header(name, value []byte) {
	is := func(text string) bool { return len(name) == len(text) && bytes.EqualFold(name, []byte(text)) }
	switch {
	case is("Content-Length"):
		if n, err := strconv.Atoi(string(value)); err == nil && n >= 0 {
			a.length = n
		}
	case is("X-Correlation-Id"):
		a.id = string(value)
	case is("Transfer-Encoding"):
		a.chunked = bytes.EqualFold(value, []byte("chunked"))
	case is("Retry-After"):
		if n, err := strconv.Atoi(string(value)); err == nil {
			a.retryAfter = time.Duration(n) * time.Second
		}
	case is("Connection"):
		a.closes = bytes.EqualFold(value, []byte("close"))
	}
}

// body reads the body of an answer; it is good until the next call.
func (c *conn) body(a answer) (body []byte, err error) {
	switch {
	case a.chunked:
		var text bytes.Buffer
		if _, err = io.Copy(&text, io.LimitReader(httputil.NewChunkedReader(c.in), maxAnswer)); err == nil {
			err = c.trailer()
		}
		body = text.Bytes()
	case a.length < 0:
		body, err = io.ReadAll(io.LimitReader(c.in, maxAnswer))
		a.closes = true
	case a.length > maxAnswer:
		err = errTooLong
	default:
		if cap(c.buf) < a.length {
			c.buf = make([]byte, a.length)
		}
		body = c.buf[:a.length]
		_, err = io.ReadFull(c.in, body)
	}
	c.end(a, err)
	return body, err
}

// end makes the connection ready for the next call, or closes it.
func (c *conn) end(a answer, err error) {
	if err != nil || a.closes {
		c.close()
		return
	}
	c.used = time.Now()
}

// trailer reads what follows the last chunk.
func (c *conn) trailer() error {
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil || len(bytes.TrimRight(line, "\r\n")) == 0 {
			return err
		}
	}
}
