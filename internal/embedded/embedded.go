// Package embedded is the Redis inside `coatcheck dev`: miniredis on a loopback
// port with a random password, so that real workers can join. Nothing is kept:
// the data goes with the process.
//
//	r, err := embedded.Start("127.0.0.1:6380")
//	defer r.Close()
//	… r.URL …
package embedded

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/coatcheck/coatcheck/internal/quickredis"
)

// tick is how often keys that expired are dropped, and by how much too early: a
// key that was set since the last tick loses all of it. The embedded Redis does
// not do it by itself, and looking at every key on every command would make a
// long backlog slow (10,000 requests take about 8 ms a tick).
const tick = 200 * time.Millisecond

// Redis is a running embedded Redis.
type Redis struct {
	URL  string // with its user name and password
	mini *quickredis.Redis
	stop chan struct{} // closed by Close
	done chan struct{} // closed when the ticker ended
}

// Start listens on addr; port 0 takes a free one.
func Start(addr string) (*Redis, error) {
	var raw [12]byte
	rand.Read(raw[:])
	password := hex.EncodeToString(raw[:])
	mini := quickredis.New()
	mini.RequireAuth(password)
	if err := mini.StartAddr(addr); err != nil {
		return nil, fmt.Errorf("start the embedded Redis on %s: %w", addr, err)
	}
	r := &Redis{
		URL: "redis://default:" + password + "@" + mini.Addr(), mini: mini,
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go r.expire()
	return r, nil
}

// Addr is where it listens.
func (r *Redis) Addr() string { return r.mini.Addr() }

func (r *Redis) expire() {
	defer close(r.done)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-r.stop:
			return
		case now := <-ticker.C:
			r.mini.FastForward(now.Sub(last)) // lowers TTLs; the clock stays the machine's
			last = now
		}
	}
}

// Close ends it, and with it all data.
func (r *Redis) Close() {
	close(r.stop)
	<-r.done
	r.mini.Close()
}
