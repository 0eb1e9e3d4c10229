// Package redistest gives a test a Redis of its own: the embedded one or a
// real server, on a loopback port that nobody else uses, ended with the test.
//
// A suite that must hold on both takes a *Redis and runs under Each:
//
//	redistest.Each(t, func(t *testing.T, r *redistest.Redis) { … r.URL … })
//
// Still is the same for long scripts: no machine is too busy for them.
//
// Start gives the real server with options, and methods to kill, stop and
// restart it. Pipe gives the embedded one without sockets, for a
// testing/synctest bubble, where time stands still.
//
// A missing redis-server fails the test: skipping would hide that nothing was
// shown.
package redistest

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/coatcheck/coatcheck/internal/quickredis"
)

// Redis is one Redis of one test.
type Redis struct {
	// URL is what broker.Options.URL takes.
	URL string
	// Client is for the test's own looks at the data. It dials anew for each
	// command after a restart.
	Client *redis.Client
	// Dial is what broker.Options.Dial takes; nil where the URL is enough.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	process *process
}

// Each runs a test on the embedded and on the real Redis.
func Each(t *testing.T, test func(*testing.T, *Redis)) {
	t.Helper()
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel() // much of a test is waiting
		test(t, Embedded(t))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, Start(t))
	})
}

// Still is Each for a test whose scripts are long: the embedded Redis is in a bubble,
// where no time passes while anything runs. On a loopback port its interpreter may take
// longer on a busy machine than a client waits for an answer. The test gives Dial on.
func Still(t *testing.T, test func(*testing.T, *Redis)) {
	t.Helper()
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			_, dial := Pipe(t)
			test(t, attach(t, "redis://pipe:1", dial, nil))
		})
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, Start(t))
	})
}

// Mini is the URL of an embedded Redis.
func Mini(t testing.TB) string { t.Helper(); return Embedded(t).URL }

// Server is the URL of a real Redis without persistence.
func Server(t testing.TB) string { t.Helper(); return Start(t).URL }

// Embedded starts a miniredis whose key TTLs follow the wall clock.
func Embedded(t testing.TB) *Redis {
	t.Helper()
	mini := quickredis.New()
	mini.ClockTTL(true) // walks all keys on every command: right for a test's few
	if err := mini.StartAddr("127.0.0.1:0"); err != nil {
		t.Fatalf("start miniredis: %v", err)
	}
	t.Cleanup(mini.Close)
	return attach(t, "redis://"+mini.Addr(), nil, nil)
}

// quiet spares servers a command that they do not know.
var quiet = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}

func attach(t testing.TB, url string, dial func(context.Context, string, string) (net.Conn, error), p *process) *Redis {
	t.Helper()
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatalf("parse %s: %v", url, err)
	}
	options.Dialer = dial
	options.DisableIdentity = true
	options.MaintNotificationsConfig = quiet
	client := redis.NewClient(options)
	t.Cleanup(func() { client.Close() })
	return &Redis{URL: url, Client: client, Dial: dial, process: p}
}

// Keys lists all keys, for a test that asserts what is left behind.
func (r *Redis) Keys(t testing.TB) []string {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	keys, err := r.Client.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatalf("list keys: %v", err)
	}
	return keys
}
