package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/coatcheck/coatcheck/internal/redisurl"
)

// misread tells a Redis that is away from one that is asked with TLS where it speaks
// none, or the other way round: each then waits for the other, or hangs up. It looks
// how the first address speaks, and sends nothing secret; nil where that is as the URL
// says, or can't be told.
func misread(ctx context.Context, o Options, why error) error {
	if !errors.Is(why, ErrUnavailable) || errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	t, err := redisurl.Parse(o.URL)
	if err != nil || o.Dial != nil || t.Network != "tcp" {
		return nil
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout) // ctx may have ended by its waiting
	defer stop()
	var d net.Dialer
	c, err := d.DialContext(ctx, t.Network, t.Addrs[0])
	if err != nil {
		return nil
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	switch {
	case t.TLS == nil && speaksTLS(ctx, c):
		return errors.New("Redis speaks TLS at this port, and the URL says that it does not: write rediss in the place of redis")
	case t.TLS != nil && speaksPlainly(c):
		return errors.New("Redis speaks no TLS at this port, and the URL says that it does: write redis in the place of rediss, or name its TLS port")
	}
	return nil
}

// speaksTLS also tells one that wants a certificate of us.
func speaksTLS(ctx context.Context, c net.Conn) bool {
	err := tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx) //nolint:gosec // nothing is sent, and nothing believed
	alert, refused := errors.AsType[*net.OpError](err)
	return err == nil || refused && strings.Contains(alert.Error(), "remote error: tls")
}

// speaksPlainly asks what needs no password to be refused for the want of one.
func speaksPlainly(c net.Conn) bool {
	if _, err := io.WriteString(c, "PING\r\n"); err != nil {
		return false
	}
	var answer [1]byte
	_, err := io.ReadFull(c, answer[:])
	return err == nil && (answer[0] == '+' || answer[0] == '-')
}
