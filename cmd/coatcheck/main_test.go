package main

import (
	"flag"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

var update = flag.Bool("update", false, "write the golden parts of the scripts anew")

// TestMain makes the test binary be coatcheck where a script calls that.
func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"coatcheck": main}) }

// TestScripts runs testdata/*.txtar against the real binary. What the commands
// beyond testscript's own do is told in script_test.go.
func TestScripts(t *testing.T) {
	examples, err := filepath.Abs("../../api/worker/examples")
	if err != nil {
		t.Fatal(err)
	}
	redis := redistest.Start(t)
	evicting := redistest.Start(t, "--maxmemory-policy", "allkeys-lru")
	testscript.Run(t, testscript.Params{
		Dir: "testdata", UpdateScripts: *update, RequireUniqueNames: true, RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_RUNTIME_DIR", e.WorkDir) // where dev is found
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("COATCHECK_DRAIN_DELAY", "0s") // no balancer stands before it
			e.Setenv("REDIS_URL", redis.URL)
			e.Setenv("EVICTING_REDIS_URL", evicting.URL)
			e.Setenv("FREE", free(t))
			e.Setenv("EXAMPLES", examples) // workers as the documentation has them
			s := &script{running: map[string]*background{}}
			e.Values[scriptKey{}] = s
			e.Defer(func() { s.end(); stopServers(e.WorkDir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "spawn": spawn, "saw": saw, "signal": signalTo, "ended": ended, "hold": hold, "http": call, "killredis": killRedis, "gone": gone, "configure": configure,
		},
	})
}

// free is a loopback address where nothing listens, and nobody is likely to.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// stopServers ends what a gateway that was killed, or a script that failed,
// left running in its data directory.
func stopServers(dir string) {
	sockets, _ := filepath.Glob(filepath.Join(dir, "*", "redis.sock"))
	for _, socket := range sockets {
		if c, err := net.DialTimeout("unix", socket, time.Second); err == nil {
			io.WriteString(c, "SHUTDOWN NOSAVE\r\n")
			io.Copy(io.Discard, c) // until it is gone
			c.Close()
		}
	}
}

// The embedded Redis grows slow on a long backlog: no service may have one.
func TestDevBoundsItsBacklog(t *testing.T) {
	c := config.Default()
	c.Services = map[string]config.Service{"more": {Limits: config.Limits{MaxQueued: 50_000}}, "less": {Limits: config.Limits{MaxQueued: 10}}, "same": {}}
	forDev(&c)
	if c.Defaults.MaxQueued != 10_000 || c.Services["more"].MaxQueued != 10_000 || c.Services["less"].MaxQueued != 10 || c.Services["same"].MaxQueued != 0 {
		t.Errorf("%+v, %+v", c.Defaults, c.Services)
	}
	if err := c.Check(); err != nil || c.Callbacks.Secret == "" {
		t.Errorf("%+v, %v", c.Callbacks, err)
	}
}
