// Package powercut_test cuts the power of Redis under load. A kill alone can't tell a
// server that syncs from one that does not, since the kernel keeps what was written;
// so redis-server runs under strace, is killed, and its append-only file is cut to
// what it had synced by then. What is left is what a machine finds that lost its
// power. Then it starts again, and the ledger is read: with durability fsync every
// 202 resolves, its key replays to the same ID, an outcome that was shown is shown as it
// was, and in the end all have theirs; with local only accepts and outcomes are lost that
// were younger than two seconds.
//
// `make powercut` runs it, ten cuts each; the seed is printed, and
// POWERCUT_SEED repeats it. With POWERCUT_PLANT=1 the server
// syncs less than the gateways are told, and hides it: the test must fail.
package powercut_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

const (
	cuts     = 10
	clients  = 32
	shortest = 2500 * time.Millisecond // of a load: some accepts are older than youngest
	longest  = 4500 * time.Millisecond
	youngest = 2 * time.Second // what local may lose
	pause    = 100 * time.Millisecond
	rewrite  = 3 // each that many cuts the file is rewritten meanwhile
	asks     = 5 // of so many requests one is waited for
)

// modes are what is promised, what the server does for it, and what a planted one
// does instead.
var modes = []struct{ durability, appendfsync, planted string }{
	{"fsync", "always", "everysec"},
	{"local", "everysec", "no"},
}

func TestPowerCut(t *testing.T) {
	asked(t)
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is not on PATH: install it (Debian: apt-get install strace)")
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("POWERCUT_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	planted := os.Getenv("POWERCUT_PLANT") != ""
	t.Logf("POWERCUT_SEED=%d, planted %v", seed, planted)
	for _, mode := range modes {
		t.Run(mode.durability, func(t *testing.T) {
			redis := newDisk(t, mode.appendfsync)
			flags := []string{"--durability", mode.durability}
			if planted {
				redis = newDisk(t, mode.planted, "--rename-command", "CONFIG", "")
				flags = append(flags, "--durability-asserted")
			}
			random := rand.New(rand.NewPCG(seed, uint64(len(mode.durability))))
			l := &ledger{t: t, durability: mode.durability}
			redis.start(t)
			l.gateways = deploy(t, redis, flags...)
			for cut := range cuts {
				l.load(redis, cut, shortest+time.Duration(random.Int64N(int64(longest-shortest))))
				redis.start(t)
				l.recovered()
				l.read(cut)
			}
			l.outcomes()
		})
	}
}

// asked skips what only its make target runs: it takes minutes.
func asked(t *testing.T) {
	t.Helper()
	if os.Getenv("POWERCUT") == "" {
		t.Skip("runs by make powercut")
	}
}

// ledger is what was accepted.
type ledger struct {
	t          *testing.T
	durability string
	gateways   []string // URLs

	mu      sync.Mutex          // guards the rest
	kept    map[string]accepted // by key; resolved after the cut
	fresh   map[string]accepted // since the last cut
	unsure  int
	killed  time.Time
	dropped int64 // bytes cut
}

type accepted struct {
	id      string
	at      time.Time // the 202 had arrived
	outcome string    // the status as it was shown once it was terminal, "" where nobody asked
	shown   time.Time // it had arrived
}

// load submits until the power is cut.
func (l *ledger) load(redis *disk, cut int, d time.Duration) {
	l.fresh, l.unsure = map[string]accepted{}, 0
	ctx, stop := context.WithCancel(l.t.Context())
	defer stop()
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("%d-%d-%d", cut, client, n)
				r, err := submit(ctx, l.gateways[(client+n)%len(l.gateways)], service(n), key)
				at := time.Now()
				a := accepted{id: r.id, at: at}
				if err == nil && r.code == 202 && n%asks == 0 {
					a.outcome = outcome(ctx, l.gateways[(client+n+1)%len(l.gateways)], r.id)
					a.shown = time.Now()
				}
				l.mu.Lock()
				if err == nil && r.code == 202 {
					l.fresh[key] = a
				} else {
					l.unsure++
				}
				l.mu.Unlock()
				<-time.After(rand.N(pause)) // so that each round's ledger is read in seconds
			}
		})
	}
	over := time.After(d)
	if cut%rewrite == rewrite-1 {
		<-time.After(d / 2) // the fault comes in the middle of the load
		redis.rewrite(l.t)
	}
	<-over
	l.killed = redis.kill(l.t)
	stop()
	all.Wait()
	l.dropped = redis.cut(l.t)
}

// read asks for all that was accepted before the cut, and submits it again.
func (l *ledger) read(cut int) {
	var lost, late, shown, forgotten int
	var oldest time.Duration
	l.each(l.fresh, func(key string, a accepted) {
		code, document, err := status(l.gateways[len(key)%len(l.gateways)], a.id)
		l.mu.Lock()
		defer l.mu.Unlock()
		switch age := l.killed.Sub(a.at); {
		case err != nil:
			l.t.Errorf("%s: %v", a.id, err)
		case code == 200:
			if a.outcome != "" {
				shown++
			}
			if a.outcome != "" && a.outcome != document {
				forgotten++
				if age := l.killed.Sub(a.shown); l.durability == "fsync" || age >= youngest {
					l.t.Errorf("%s was shown as\n%s\n%v before the cut, and is shown as\n%s", a.id, a.outcome, age, document)
				}
			}
			return
		case code == 410:
			lost++
			oldest = max(oldest, age)
			if l.durability == "fsync" || age >= youngest {
				late++
			}
		default:
			l.t.Errorf("%s, accepted %v before the cut, answers %d", a.id, age, code)
		}
		delete(l.fresh, key)
	})
	if late > 0 {
		l.t.Errorf("%s: %d accepted requests are lost that must not be, the oldest was accepted %v before the cut", l.durability, late, oldest.Round(time.Millisecond))
	}
	l.each(l.fresh, func(key string, a accepted) {
		var again receipt
		_, err := patiently(func() (code int, err error) {
			again, err = submit(context.Background(), l.gateways[(len(key)+1)%len(l.gateways)], serviceOf(key), key)
			return again.code, err
		})
		if err != nil || !again.replayed || again.id != a.id {
			l.t.Errorf("%s again: %+v, %v; want %s", key, again, err, a.id)
		}
	})
	if l.kept == nil {
		l.kept = map[string]accepted{}
	}
	for key, a := range l.fresh {
		l.kept[key] = a
	}
	l.t.Logf("%-5s cut %2d of %d: %4d accepted, %3d unknown, %7d bytes were not synced, %4d lost, the oldest %v old; %d outcomes shown, %d of them taken back", l.durability,
		cut+1, cuts, len(l.fresh)+lost, l.unsure, l.dropped, lost, oldest.Round(time.Millisecond), shown, forgotten)
	if shown == 0 {
		l.t.Error("nobody was shown an outcome before the cut: this shows nothing of them")
	}
}

// outcomes waits for those of all that was accepted and kept.
func (l *ledger) outcomes() {
	var answered int
	l.each(l.kept, func(key string, a accepted) {
		body, err := reply(l.gateways[len(key)%len(l.gateways)], a.id)
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil || body != key {
			l.t.Errorf("%s: replied %q, %v; want %q", a.id, body, err, key)
			return
		}
		answered++
	})
	l.t.Logf("%-5s %d accepted and kept over %d cuts, all resolved by their key, %d with their own outcome", l.durability, len(l.kept), cuts, answered)
}

// each calls do for all, many at once. do may delete from all, with the lock held.
func (l *ledger) each(all map[string]accepted, do func(string, accepted)) {
	type entry struct {
		key string
		accepted
	}
	var entries []entry
	for key, a := range all {
		entries = append(entries, entry{key, a})
	}
	jobs := make(chan entry)
	var workers sync.WaitGroup
	for range clients {
		workers.Go(func() {
			for e := range jobs {
				do(e.key, e.accepted)
			}
		})
	}
	for _, e := range entries {
		jobs <- e
	}
	close(jobs)
	workers.Wait()
}
