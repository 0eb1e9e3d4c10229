package bench

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

const (
	longestWait = 60 * time.Second // of one long-poll; a gateway waits no longer
	waitMargin  = 5 * time.Second  // for its answer
)

// errBroken says that a stream ended without its last event.
var errBroken = errors.New("the stream ended before its outcome")

// await sees the reply of request n, and says whether there was one by the
// deadline. What goes wrong on the way is counted and tried again, as a client
// does that wants its reply.
func (c *client) await(n int, id string, document []byte, deadline time.Time) bool {
	if c.Via == Webhook {
		return c.callback(n, deadline)
	}
	look := c.poller(id, document, deadline)
	if c.Via == SSE {
		look = c.follower(n, id, deadline)
	}
	for time.Now().Before(deadline) && c.conn.ctx.Err() == nil {
		v, err := look()
		if v == linked {
			v, err = c.fetch(id, deadline)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if err != nil {
			c.trouble(fmt.Errorf("%s: %w", c.Via, err))
			rest(c.conn.ctx, troubleRest)
			continue
		}
		if v != pending {
			c.book.answer(n, v)
			return true
		}
	}
	return false
}

// poller asks for the status once, after a while or as a long-poll.
func (c *client) poller(id string, document []byte, deadline time.Time) func() (verdict, error) {
	attempt, step := progress(document)
	return func() (verdict, error) {
		left, query := time.Until(deadline), ""
		if c.Via == Wait {
			query = "?wait=" + strconv.Itoa(max(1, int(min(left, longestWait)/time.Second)))
		} else {
			rest(c.conn.ctx, min(left, c.PollEvery))
		}
		now, err := c.ask("/v1/requests/"+id+query, deadline.Add(waitMargin))
		if err != nil {
			return pending, err
		}
		c.seen = time.Now()
		a, s := progress(now)
		if a < attempt || a == attempt && s < step {
			c.book.misorder() // it was further already
		}
		attempt, step = a, s
		return judge(now, id, c.body), nil
	}
}

// fetch brings a reply that is too large for a document.
func (c *client) fetch(id string, deadline time.Time) (verdict, error) {
	raw, err := c.ask("/v1/requests/"+id+"/reply", deadline)
	if err != nil {
		return pending, err
	}
	if !bytes.Equal(raw, c.body) {
		return wrongReply, nil
	}
	return rightReply, nil
}

// follower reads the stream of events to its end, from after what was seen
// before on.
func (c *client) follower(n int, id string, deadline time.Time) func() (verdict, error) {
	last, outcome := 0, pending
	see := func(e event) {
		switch {
		case outcome != pending && e.name == "outcome":
			c.book.answer(n, outcome) // the first one is told of too
		case outcome != pending || e.id > 0 && e.id <= last:
			c.book.misorder() // numbers grow, and after the outcome there is nothing
		case e.name == "outcome":
			c.seen = time.Now()
			if outcome = judge(e.data, id, c.body); outcome == pending {
				outcome = wrongReply
			}
		}
		last = max(last, e.id)
	}
	return func() (verdict, error) {
		after := ""
		if last > 0 {
			after = api.HeaderLastEventID + ": " + strconv.Itoa(last) + "\r\n"
		}
		a, err := c.call("/v1/requests/"+id+"/events", after, deadline)
		if err != nil {
			return pending, err
		}
		if a.status != http.StatusOK {
			_, err := c.conn.body(a)
			return pending, errors.Join(fmt.Errorf("the stream was answered with %d", a.status), err)
		}
		err = c.conn.events(a, see)
		if outcome != pending {
			return outcome, nil
		}
		return pending, errors.Join(errBroken, err)
	}
}

// callback waits until the receiver has seen and judged the one of request n.
func (c *client) callback(n int, deadline time.Time) bool {
	late := time.NewTimer(time.Until(deadline))
	defer late.Stop()
	for {
		select {
		case got := <-c.called:
			if got.n == n { // else it is one that was given up
				c.seen = got.at
				return true
			}
		case <-late.C:
			return false
		case <-c.conn.ctx.Done():
			return false
		}
	}
}

// ask makes a GET and returns the body of a 200.
func (c *client) ask(path string, deadline time.Time) ([]byte, error) {
	a, err := c.call(path, "", deadline)
	if err != nil {
		return nil, err
	}
	body, err := c.conn.body(a)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("the status was answered with %d", a.status)
	}
	return body, err
}

// call makes a GET. The headers end with a line end.
func (c *client) call(path, headers string, deadline time.Time) (answer, error) {
	g := append(c.gotten[:0], "GET "...)
	g = append(g, c.to.path...)
	g = append(g, path...)
	g = append(g, c.get...)
	g = append(g, headers...)
	c.gotten = append(g, "\r\n"...)
	a, _, err := c.conn.call(c.gotten, deadline)
	return a, err
}
