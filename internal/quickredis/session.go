package quickredis

import (
	"crypto/rand"
	"strings"

	"github.com/alicebob/miniredis/v2/server"
)

// Miniredis keeps the state of a connection to itself: whether it has a password to
// give first, is inside MULTI, subscribed, or a script itself. All of that decides
// about its scripts. So miniredis is asked, once for a connection, to run a script
// for it that calls a command of this package: if it does, what the command finds as
// its context is what all later scripts may run in, under miniredis' lock.

const (
	sessionCommand = "QUICKREDIS.SESSION"
	askSession     = "return redis.call('" + sessionCommand + "', ARGV[1])"
)

// session is the context for the commands of scripts of a connection; nil where its
// scripts are to be left to miniredis.
func (r *Redis) session(c *server.Peer) any {
	r.mu.Lock()
	s, known := r.sessions[c]
	r.mu.Unlock()
	if known {
		return s
	}
	token := rand.Text() // no client can guess it
	r.mu.Lock()
	r.asked[token] = nil
	r.mu.Unlock()
	r.ask(c.Ctx, "EVAL", askSession, "0", token)
	r.mu.Lock()
	s = r.asked[token]
	delete(r.asked, token)
	r.mu.Unlock()
	if s != nil {
		r.remember(c, s)
	}
	return s
}

// tellSession is the command.
func (r *Redis) tellSession(c *server.Peer, _ string, args []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(args) == 1 {
		if _, asked := r.asked[args[0]]; asked {
			r.asked[args[0]] = c.Ctx
			c.WriteOK()
			return
		}
	}
	c.WriteError("ERR unknown command `" + strings.ToLower(sessionCommand) + "`")
}

// remember keeps what was found out about a connection, until it ends.
func (r *Redis) remember(c *server.Peer, s any) {
	r.mu.Lock()
	_, known := r.sessions[c]
	r.sessions[c] = s
	r.mu.Unlock()
	if !known {
		c.OnDisconnect(func() {
			r.mu.Lock()
			delete(r.sessions, c)
			r.mu.Unlock()
		})
	}
}
