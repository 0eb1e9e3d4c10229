package quickredis

import (
	"bufio"
	"io"
	"reflect"
	"sync"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// Miniredis keeps the state of a connection to itself: whether it has a password to
// give first, is inside MULTI, subscribed, or a script itself. All of that decides
// about its scripts, and is what WATCH is refused for too. So miniredis is asked to
// WATCH a key that never is, once for a connection: if it does, the scripts of the
// connection may run, until it says something that changes its state.
const neverThere = "quickredis:none"

// runsHere tells whether the scripts of a connection are run here.
func (r *Redis) runsHere(c *server.Peer) bool {
	r.mu.Lock()
	ordinary, known := r.ordinary[c]
	r.mu.Unlock()
	if !known {
		if ordinary = r.ask(c.Ctx, "WATCH", neverThere) == "+OK\r\n"; ordinary {
			r.remember(c, true)
		}
	}
	return ordinary
}

// remember keeps what was found out about a connection, until it ends.
func (r *Redis) remember(c *server.Peer, ordinary bool) {
	r.mu.Lock()
	_, known := r.ordinary[c]
	r.ordinary[c] = ordinary
	r.mu.Unlock()
	if !known {
		c.OnDisconnect(func() { r.forget(c) })
	}
}

func (r *Redis) forget(c *server.Peer) {
	r.mu.Lock()
	delete(r.ordinary, c)
	r.mu.Unlock()
}

// inner is what miniredis keeps of a script that runs: that it is one, and so that
// miniredis' lock is held. A command of a miniredis of its own finds it out.
var inner = sync.OnceValue(func() (found reflect.Value) {
	m := miniredis.NewMiniRedis()
	defer m.Close()
	c, err := m.Dial() // so that there is a server
	if err != nil {
		panic("quickredis: " + err.Error()) // in memory: can't fail
	}
	defer c.Close()
	m.Server().Register("FOUND", func(c *server.Peer, _ string, _ []string) {
		found = reflect.ValueOf(c.Ctx).Elem()
		c.WriteOK()
	})
	m.Server().Dispatch(server.NewPeer(bufio.NewWriter(io.Discard)), []string{"EVAL", findInner, "0"})
	return found
})

const findInner = "return redis.call('FOUND')"

// scriptContext is inner for one run of a script: a SELECT in it is its own.
func scriptContext() any {
	c := reflect.New(inner().Type())
	c.Elem().Set(inner())
	return c.Interface()
}
