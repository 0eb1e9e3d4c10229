package bench

import (
	"context"
	"fmt"
	"time"
)

// Conn is one connection to a gateway, for who makes a load of another kind. One
// goroutine may use it at a time.
type Conn struct{ client client }

// NewConn makes a connection to the gateway at url, which is opened by the first
// call and closed by Close or the end of ctx. ErrOptions.
func NewConn(ctx context.Context, url string) (*Conn, error) {
	to, err := parseTarget(url)
	if err != nil {
		return nil, err
	}
	r := &run{to: to}
	c := client{run: r, conn: conn{to: to, ctx: ctx}}
	c.get = []byte(" HTTP/1.1\r\nHost: " + to.host + "\r\n")
	return &Conn{c}, nil
}

// Get reads the body of a 200, which is good until the next call.
func (c *Conn) Get(path string, deadline time.Time) ([]byte, error) {
	return c.client.ask(path, deadline)
}

// Events reads a stream until its end or deadline. see gets the name of each of
// its events.
func (c *Conn) Events(path string, deadline time.Time, see func(event string)) error {
	a, err := c.client.call(path, "", deadline)
	if err != nil {
		return err
	}
	if a.status != 200 {
		c.Close()
		return fmt.Errorf("GET %s: %d", path, a.status)
	}
	return c.client.conn.events(a, func(e event) { see(e.name) })
}

// Submit hands a request in and returns its correlation ID.
func (c *Conn) Submit(service string, body []byte, deadline time.Time) (id string, err error) {
	post := fmt.Appendf(nil, "POST %s/v1/services/%s/requests%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		c.client.to.path, service, c.client.get, len(body), body)
	a, _, err := c.client.conn.call(post, deadline)
	if err != nil {
		return "", err
	}
	text, err := c.client.conn.body(a)
	if err == nil && a.status != 202 {
		err = fmt.Errorf("a submit was answered with %d: %.200s", a.status, text)
	}
	return a.id, err
}

// Close closes the connection; a later call opens it anew.
func (c *Conn) Close() { c.client.conn.close() }
