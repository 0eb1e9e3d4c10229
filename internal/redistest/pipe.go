package redistest

import (
	"context"
	"net"
	"testing"

	"github.com/alicebob/miniredis/v2"
)

// Pipe is an embedded Redis without sockets, for use inside a testing/synctest
// bubble: its clock and its TTLs are the bubble's. Give the returned function to
// broker.Options.Dial.
func Pipe(t testing.TB) (*miniredis.Miniredis, func(ctx context.Context, network, addr string) (net.Conn, error)) {
	t.Helper()
	mini := miniredis.NewMiniRedis()
	mini.ClockTTL(true)
	t.Cleanup(mini.Close)
	return mini, func(context.Context, string, string) (net.Conn, error) { return mini.Dial() }
}
