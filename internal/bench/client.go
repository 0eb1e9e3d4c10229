package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

// client submits one request after the other over one connection.
type client struct {
	*run
	conn conn

	post   []byte // a whole submit, of which only the numbers change
	body   []byte // the end of it
	callAt int    // where in it the callback URL has its number, 0 for none
	get    []byte // a GET behind its path
	gotten []byte // the last GET as it was sent

	called chan called // of Webhook; capacity 1, the receiver sends
	seen   time.Time   // when the last reply was
}

func (r *run) newClient(ctx context.Context, number int) *client {
	c := &client{run: r, conn: conn{to: r.to, ctx: ctx}}
	headers := "Host: " + r.to.host + "\r\nUser-Agent: coatcheck-bench\r\n"
	if r.APIKey != "" {
		headers += "Authorization: Bearer " + r.APIKey + "\r\n"
	}
	c.get = []byte(" HTTP/1.1\r\n" + headers)
	var post bytes.Buffer
	fmt.Fprintf(&post, "POST %s/v1/services/%s/requests HTTP/1.1\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n",
		r.to.path, r.Service, headers, r.Body)
	if r.receiver != nil {
		c.called = r.receiver.register(number)
		post.WriteString(api.HeaderCallbackURL + ": " + r.receiver.url(number))
		c.callAt = post.Len()
		post.Write(make([]byte, digits))
		post.WriteString("\r\n")
	}
	post.WriteString("\r\n")
	c.post = append(post.Bytes(), r.payload.body...)
	c.body = c.post[len(c.post)-r.Body:]
	return c
}

// loop goes on until there are no more requests.
func (c *client) loop() {
	defer c.conn.close()
	for {
		due, ok := c.next()
		if !ok {
			return
		}
		if wait := c.exchange(due); wait > 0 && c.Rate == 0 {
			rest(c.ending, wait)
		}
	}
}

// exchange is one request from its submit to its reply. It returns for how long
// to rest before the next one: after a refusal or an error, to ask at once again
// would make the load of a gateway that has too much already.
func (c *client) exchange(due time.Time) time.Duration {
	c.tally.begin(due)
	n := c.book.send()
	c.payload.write(c.body, n)
	if c.callAt > 0 {
		putNumber(c.post[c.callAt:], n)
	}
	deadline := time.Now().Add(c.Timeout)
	a, sent, err := c.conn.call(c.post, deadline)
	var document []byte
	if err == nil {
		document, err = c.conn.body(a)
	}
	switch {
	case err != nil:
		if !sent {
			c.book.refuse(n)
		}
		c.trouble(fmt.Errorf("submit: %w", err))
		return troubleRest
	case a.status != http.StatusAccepted:
		c.book.refuse(n)
		return c.refused(a, document)
	}
	c.book.accept(n, a.id)
	c.tally.accept(due, time.Now())
	if c.Via == Submit {
		return 0
	}
	if c.await(n, a.id, document, deadline) {
		c.tally.reply(due, c.seen)
	}
	return 0
}

// refused counts a submit that was not accepted. Where trying again can't help,
// the whole run is in vain.
func (c *client) refused(a answer, document []byte) time.Duration {
	c.tally.refuse(a.status)
	switch a.status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusConflict:
		return max(troubleRest, min(a.retryAfter, time.Second))
	}
	var p api.Problem
	if json.Unmarshal(document, &p) == nil && p.Type != "" {
		c.fatal(p)
	} else {
		c.fatal(fmt.Errorf("a submit was answered with %d, not 202: is this the address of a gateway?", a.status))
	}
	return 0
}

// trouble counts an error, unless it only says that the run was stopped.
func (c *client) trouble(err error) {
	if c.conn.ctx.Err() == nil {
		c.tally.trouble(err)
	}
}

// rest waits, shorter where ctx ends.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
