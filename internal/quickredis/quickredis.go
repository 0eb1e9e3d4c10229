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
	"maps"
	"net"
	"strconv"
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

	mu       sync.Mutex            // guards the rest
	loaded   map[string]string     // sources of scripts by digest
	ordinary map[*server.Peer]bool // whether the scripts of a connection are run here
}

// New makes one that is not started.
func New() *Redis {
	return &Redis{
		Miniredis: miniredis.NewMiniRedis(),
		loaded:    map[string]string{}, ordinary: map[*server.Peer]bool{},
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
	r.server.SetPreHook(r.hook)
}

func (r *Redis) hook(c *server.Peer, command string, args ...string) bool {
	if c.ClientName == asker {
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
		r.remember(c, false)
	}
	return false
}

// evalSHA runs a script that is known by its digest.
func (r *Redis) evalSHA(c *server.Peer, args []string) bool {
	if len(args) == 0 {
		return false
	}
	r.mu.Lock()
	source, known := r.loaded[args[0]]
	r.mu.Unlock()
	if !known {
		return false
	}
	if !r.runsHere(c) || !r.run(c, compile(source), args[1:]) {
		r.server.Dispatch(c, append([]string{"EVAL", source}, args[1:]...)) // miniredis may not know the digest
	}
	return true
}

// eval runs a script by its source.
func (r *Redis) eval(c *server.Peer, args []string) bool {
	if len(args) == 0 {
		return false
	}
	if !r.runsHere(c) {
		return false
	}
	script := compile(args[0])
	if !r.run(c, script, args[1:]) {
		return false
	}
	r.know(script.sha, args[0])
	return true
}

// script loads, and tells what is loaded.
func (r *Redis) script(c *server.Peer, args []string) bool {
	if len(args) == 0 {
		return false
	}
	switch strings.ToUpper(args[0]) {
	case "LOAD":
		if len(args) != 2 || !r.runsHere(c) {
			return false
		}
		script := compile(args[1])
		if script.proto == nil {
			return false
		}
		r.know(script.sha, args[1])
		c.WriteBulk(script.sha)
		return true
	case "EXISTS":
		if len(args) < 2 || !r.runsHere(c) {
			return false
		}
		r.exists(c, args[1:])
		return true
	case "FLUSH":
		r.mu.Lock()
		clear(r.loaded)
		r.mu.Unlock()
	}
	return false
}

// exists asks miniredis for the scripts that are not known here.
func (r *Redis) exists(c *server.Peer, digests []string) {
	known, unknown := make([]int, len(digests)), []string{"SCRIPT", "EXISTS"}
	r.mu.Lock()
	for i, sha := range digests {
		if _, here := r.loaded[sha]; here {
			known[i] = 1
		} else {
			unknown = append(unknown, sha)
		}
	}
	r.mu.Unlock()
	if len(unknown) > 2 {
		answers := strings.Split(r.ask(c.Ctx, unknown...), "\r\n")[1:]
		for i := range known {
			if known[i] == 0 {
				known[i], _ = strconv.Atoi(strings.TrimPrefix(answers[0], ":"))
				answers = answers[1:]
			}
		}
	}
	c.WriteLen(len(known))
	for _, k := range known {
		c.WriteInt(k)
	}
}

// KnowScriptsOf has r know the scripts that are loaded in other, as if they had been
// loaded here: a test that begins thousands of times needs not send them each time.
func (r *Redis) KnowScriptsOf(other *Redis) {
	other.mu.Lock()
	loaded := maps.Clone(other.loaded)
	other.mu.Unlock()
	r.mu.Lock()
	maps.Copy(r.loaded, loaded)
	r.mu.Unlock()
}

func (r *Redis) know(sha, source string) {
	r.mu.Lock()
	r.loaded[sha] = source
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
