// Package quickredis is miniredis with scripts that start at once. Miniredis
// itself makes a whole Lua interpreter for each call of a script, and parses the
// source anew at each SCRIPT LOAD: most of the time of a gateway on an embedded
// Redis goes there.
//
//	r := quickredis.New()
//	err := r.StartAddr("127.0.0.1:0") // or r.Dial, without a port
//
// All else is miniredis' own. A hook before its commands takes the scripts of the
// connections that are in no special state: it holds miniredis' lock while one
// runs, and has miniredis answer what the script asks. A call that is out of the
// ordinary (before AUTH, inside MULTI, in another database, with wrong arguments, of
// a script that can't be compiled or wants more than is here) is left to miniredis.
//
// Pitfalls: scripts share one interpreter, as in a real Redis, so one that writes to
// the table of a library changes it for all. Inside MULTI and in other databases,
// SCRIPT EXISTS knows only of scripts that were loaded there.
package quickredis

import (
	"bufio"
	"crypto/sha1"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// Redis is a miniredis. SetError and its server's SetPreHook take this package's
// hook away, and with it the speed: use Hook.
type Redis struct {
	*miniredis.Miniredis

	install sync.Once
	server  *server.Server // set by install
	first   atomic.Pointer[server.Hook]
	interpreter

	mu       sync.Mutex           // guards the rest
	sources  map[string]string    // of the scripts by digest
	sessions map[*server.Peer]any // what scripts run as for a connection; nil where they are left to miniredis
	asked    map[string]any       // by token: what became known of a connection, see session
}

// New makes one that is not started.
func New() *Redis {
	return &Redis{
		Miniredis: miniredis.NewMiniRedis(),
		sources:   map[string]string{}, sessions: map[*server.Peer]any{}, asked: map[string]any{},
	}
}

// StartAddr listens at a host and port.
func (r *Redis) StartAddr(addr string) error {
	err := r.Miniredis.StartAddr(addr)
	if err == nil {
		r.install.Do(r.hookIn)
	}
	return err
}

// Dial connects in memory; the first call starts the server, without a port.
func (r *Redis) Dial() (net.Conn, error) {
	c, err := r.Miniredis.Dial()
	if err == nil {
		r.install.Do(r.hookIn)
	}
	return c, err
}

// Hook has h see each command first, also those of scripts; nil for nobody. Where it
// returns true the command is done.
func (r *Redis) Hook(h server.Hook) { r.first.Store(&h) }

// asker is the name of what asks miniredis for this package.
const asker = "quickredis"

func (r *Redis) hookIn() {
	r.server = r.Miniredis.Server()
	r.server.Register(sessionCommand, r.tellSession)
	r.server.SetPreHook(r.hook)
}

func (r *Redis) hook(c *server.Peer, command string, args ...string) bool {
	if c.ClientName == asker || command == sessionCommand {
		return false
	}
	if first := r.first.Load(); first != nil && *first != nil && (*first)(c, command, args...) {
		return true
	}
	switch command {
	case "EVALSHA":
		return r.evalSHA(c, args)
	case "EVAL":
		return r.eval(c, args)
	case "SCRIPT":
		return r.script(c, args)
	case "MULTI", "SELECT", "SUBSCRIBE", "PSUBSCRIBE":
		r.remember(c, nil)
	}
	return false
}

// evalSHA runs a script that is known by its digest.
func (r *Redis) evalSHA(c *server.Peer, args []string) bool {
	if len(args) == 0 {
		return false
	}
	r.mu.Lock()
	source, known := r.sources[args[0]]
	r.mu.Unlock()
	if !known {
		return false
	}
	if s := r.session(c); s == nil || !r.run(c, s, args[0], source, args[1:]) {
		r.server.Dispatch(c, append([]string{"EVAL", source}, args[1:]...)) // miniredis may not know the digest
	}
	return true
}

// eval runs a script by its source.
func (r *Redis) eval(c *server.Peer, args []string) bool {
	if len(args) == 0 {
		return false
	}
	s := r.session(c)
	if s == nil {
		return false
	}
	sha := digest(args[0])
	if !r.run(c, s, sha, args[0], args[1:]) {
		return false
	}
	r.know(sha, args[0])
	return true
}

// script loads, and tells what is loaded.
func (r *Redis) script(c *server.Peer, args []string) bool {
	if len(args) == 0 {
		return false
	}
	switch strings.ToUpper(args[0]) {
	case "LOAD":
		if len(args) != 2 || r.session(c) == nil || compile(args[1]) == nil {
			return false
		}
		sha := digest(args[1])
		r.know(sha, args[1])
		c.WriteBulk(sha)
		return true
	case "EXISTS":
		if len(args) < 2 || r.session(c) == nil {
			return false
		}
		r.exists(c, args[1:])
		return true
	case "FLUSH":
		r.mu.Lock()
		clear(r.sources)
		r.mu.Unlock()
	}
	return false
}

// exists asks miniredis for the scripts that are not known here.
func (r *Redis) exists(c *server.Peer, digests []string) {
	known := make([]bool, len(digests))
	for i, sha := range digests {
		r.mu.Lock()
		_, known[i] = r.sources[sha]
		r.mu.Unlock()
		if !known[i] {
			known[i] = strings.HasSuffix(r.ask(c.Ctx, "SCRIPT", "EXISTS", sha), ":1\r\n")
		}
	}
	c.WriteLen(len(known))
	for _, k := range known {
		if k {
			c.WriteInt(1)
		} else {
			c.WriteInt(0)
		}
	}
}

func (r *Redis) know(sha, source string) {
	r.mu.Lock()
	r.sources[sha] = source
	r.mu.Unlock()
}

// ask has miniredis itself run a command in the context of a connection, and returns
// the answer.
func (r *Redis) ask(ctx any, command ...string) string {
	var answer strings.Builder
	w := bufio.NewWriter(&answer)
	c := server.NewPeer(w)
	c.Ctx, c.ClientName = ctx, asker
	r.server.Dispatch(c, command)
	w.Flush()
	return answer.String()
}

func digest(source string) string {
	sum := sha1.New() // what EVALSHA is defined by
	io.WriteString(sum, source)
	return hex.EncodeToString(sum.Sum(nil))
}
