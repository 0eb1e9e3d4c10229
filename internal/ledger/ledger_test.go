// Package ledger_test counts as Jepsen does: each submit is ok, refused or
// unknown, and after the faults every accepted request must have exactly one
// outcome with its own payload, whoever was killed meanwhile. Requests of all kinds
// run together, see mix_test.go. Real processes, workers in Go and in Python, a
// real redis-server that syncs every write, SIGKILL at random times.
//
// `make ledger` runs the long form, and asserts times too; the seed is printed, and
// -seed repeats its kills.
package ledger_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/internal/fleet"
)

var (
	full    = flag.Bool("full", false, "10,000 requests and 50 kills, times asserted")
	cluster = flag.Bool("cluster", false, "on a Redis Cluster of three masters, whose processes are killed too")
	seed    = flag.Uint64("seed", 0, "repeats a run; 0 draws one")
)

const (
	clients   = 24
	auditors  = 48
	followers = 8                       // of so many requests one is followed while it is under fire
	repeats   = 20                      // of so many, one is submitted once more at the end
	heal      = 5 * time.Second         // within which work flows again
	pace      = 2500 * time.Millisecond // about how long a kill and its recovery take
)

func TestMain(m *testing.M) { fleet.Main(m, work) }

// size is how many requests and kills there are.
func size() (requests, kills int) {
	if *full {
		return 10_000, 50
	}
	return 800, 8
}

// Planted once, and seen: a worker that acknowledges and deletes an entry when it
// claims it (92 of 800 without their outcome).
func TestLedger(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	if *cluster { // where the worker in Python can't be
		mix = slices.DeleteFunc(mix, func(k kind) bool { return k.name == snaked.name })
	}
	requests, kills := size()
	t.Logf("seed %d: %d requests, %d kills", *seed, requests, kills)
	ctx, stop := context.WithTimeout(t.Context(), 12*time.Minute)
	defer stop()
	a := &audit{t: t, site: deploy(t, true), known: map[string]submitted{}, ours: map[string]bool{}}
	for n := range mix {
		id, err := a.submit(ctx, n, "warm-up")
		if err != nil {
			t.Fatalf("the fleet never came up: %v", err)
		}
		a.told(id)
	}

	var load sync.WaitGroup
	jobs := make(chan int)
	for c := range clients {
		load.Go(func() { a.client(ctx, c, jobs) })
	}
	load.Go(func() {
		defer close(jobs)
		ticks := time.NewTicker(time.Duration(kills) * pace / time.Duration(requests)) // spread over the faults
		defer ticks.Stop()
		for n := range requests {
			<-ticks.C
			jobs <- n
		}
	})
	begun := time.Now()
	random := rand.New(rand.NewPCG(*seed, 1))
	longest, struck := time.Duration(0), 0
	for struck < kills {
		what, n := a.site.strike(t, random)
		struck += n
		took := a.site.flows(t)
		longest = max(longest, took)
		if *full && took > heal {
			t.Errorf("after the kill of %s work flowed again in %v, want %v at most", what, took, heal)
		}
		<-time.After(time.Duration(random.IntN(1000)) * time.Millisecond) // between faults
	}
	load.Wait()
	fired := time.Since(begun)

	healed := time.Now()
	a.verify(ctx)
	again := a.again.Load()
	t.Logf("accepted %d of %d, each with one outcome and its own bytes; %d tries met a dead gateway; %d live streams without a gap; %d callbacks as polled",
		len(a.known), requests, a.moved.Load(), a.followed.Load(), a.site.called(a))
	t.Logf("%d processes killed in %v (%s), work flowed again within %v of each; all was read %v after the last; %d of %d dispatched twice (%.1f %%)",
		struck, fired.Round(time.Second), a.site.tolls(), longest.Round(time.Millisecond), time.Since(healed).Round(time.Second), again, requests, 100*float64(again)/float64(requests))
	if len(a.known) != requests {
		t.Error("the ledger does not balance")
	}
	if *full && again == 0 {
		t.Error("no kill met a running request: this run shows nothing of leases")
	}
	if *full && again > int64(requests/20) {
		t.Errorf("%d of %d requests were dispatched more than once", again, requests)
	}
}

// client submits what it is told to until there is no more.
func (a *audit) client(ctx context.Context, c int, jobs <-chan int) {
	var following sync.WaitGroup
	defer following.Wait()
	for n := range jobs {
		k := mix[n%len(mix)]
		payload := fmt.Sprintf("payload %d of client %d, %x", n, c, *seed)
		if k.same {
			payload = fmt.Sprintf("payload %d for all, %x", n/100, *seed)
		}
		if k.body != "" {
			payload = k.body
		}
		id, err := a.submit(ctx, n, payload)
		if err != nil {
			a.t.Errorf("request %d was never accepted: %v", n, err)
			continue
		}
		a.accept(id, submitted{n, payload})
		if n%followers == 0 && k.name != "batched" {
			following.Go(func() { a.follow(ctx, n, id) })
		}
	}
}

// submit tries one gateway after the other with one idempotency key: what is
// unknown resolves to one acceptance.
func (a *audit) submit(ctx context.Context, n int, payload string) (string, error) {
	key := fmt.Sprintf("%d-%x-%x", n, *seed, payload[:min(len(payload), 40)])
	for try := 0; ; try++ {
		id, err := mix[n%len(mix)].submit(ctx, a.site.client(n+try), n, client.Request{
			ContentType: "text/plain", Body: []byte(payload), IdempotencyKey: key, CallbackURL: a.site.receiver.url,
		})
		if err == nil {
			a.moved.Add(int64(try))
			return id, nil
		}
		if p, ok := errors.AsType[api.Problem](err); ctx.Err() != nil || ok && p.Status < 500 && p.Type != "/problems/unknown-service" {
			return "", err
		}
		<-time.After(50 * time.Millisecond) // a service that is not announced yet, a gateway that is down
	}
}

// audit is the ledger: what was accepted, and what became of it.
type audit struct {
	t    *testing.T
	site *site

	moved, again, followed atomic.Int64

	mu    sync.Mutex // guards the rest
	known map[string]submitted
	ours  map[string]bool   // IDs of all that somebody was told of
	order map[string][]turn // by ordering key
}

// submitted is how something was submitted.
type submitted struct {
	n       int
	payload string
}

// told notes what a client was told, one ID or several.
func (a *audit) told(ids string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range strings.FieldsSeq(ids) {
		a.ours[id] = true
	}
}

func (a *audit) accept(id string, how submitted) {
	a.told(id)
	a.mu.Lock()
	defer a.mu.Unlock()
	if other, twice := a.known[id]; twice {
		a.t.Errorf("%s was given to %v and to %v", id, other, how)
	}
	a.known[id] = how
}

// verify reads what became of everything, and submits a few once more.
func (a *audit) verify(ctx context.Context) {
	var all sync.WaitGroup
	slots := make(chan struct{}, auditors)
	for id, how := range a.known {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if how.n%repeats == 0 {
				if again, err := a.submit(ctx, how.n, how.payload); err != nil || again != id {
					a.t.Errorf("submitted again with its key, %s is %s, %v", id, again, err)
				}
			}
			mix[how.n%len(mix)].verify(ctx, a, id, how.payload)
		})
	}
	all.Wait()
	a.inOrder()
	if *full {
		a.site.receiver.await(ctx, a)
	}
	a.compareCallbacks()
}
