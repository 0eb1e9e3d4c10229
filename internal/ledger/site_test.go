package ledger_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	gateways = 3
	lease    = 2 * time.Second
	settings = `
log: {level: warn}
defaults: {lease: 2s, max_attempts: 20, timeout: 8m}
services: {same: {coalesce: true, cache_ttl: 1m}}
callbacks: {secret: "` + secret + `", allow_cidrs: ["127.0.0.0/8"]}
`
)

// site is the processes under fire, and who talks to them.
type site struct {
	redis    *redistest.Redis   // nil where there are several
	masters  []*redistest.Redis // of a Redis Cluster
	servers  []fleet.Server
	workers  []*fleet.Process
	clients  []*client.Client // one a gateway
	receiver *receiver
	toll     map[string]int // how often what was killed
}

// deploy starts three gateways and four workers, two of them in Python where
// wanted, on one Redis, or on a Redis Cluster.
func deploy(t *testing.T, snakes bool) *site {
	t.Helper()
	s := &site{receiver: listen(t), toll: map[string]int{}}
	kept, url, more := []string{"--appendonly", "yes", "--appendfsync", "always"}, "", ""
	if *cluster {
		c := redistest.StartCluster(t, 3, 0, kept...)
		s.masters, url, more = c.Nodes, c.URL, "partitions: 16\n"
	} else {
		s.redis = redistest.Start(t, kept...)
		url = s.redis.URL
	}
	for range gateways {
		g := fleet.Gateway(t, url, settings+more)
		s.servers, s.clients = append(s.servers, g), append(s.clients, client.New(g.URL, client.HTTP(web)))
	}
	switch {
	case *cluster: // the one in Python is for a single server
		for range 4 {
			s.workers = append(s.workers, fleet.Worker(t, url))
		}
	case snakes:
		s.workers = append(s.workers, fleet.Python(t, url, mixed), fleet.Python(t, url, snake))
		fallthrough
	default:
		s.workers = append(s.workers, fleet.Worker(t, url), fleet.Worker(t, url))
	}
	return s
}

func (s *site) client(n int) *client.Client { return s.clients[n%len(s.clients)] }

// target is what can be killed.
type target struct {
	name  string
	kill  func()
	start func()
}

func (s *site) targets(t *testing.T) (all []target) {
	for _, g := range s.servers {
		all = append(all, target{"a gateway", g.Kill, g.Start})
	}
	for _, w := range s.workers {
		all = append(all, target{"a worker", w.Kill, w.Start})
	}
	for _, m := range s.masters {
		all = append(all, target{"a master", m.Kill, func() { m.Restart(t) }})
	}
	if s.redis != nil {
		all = append(all, target{"Redis", s.redis.Kill, func() { s.redis.Restart(t) }})
	}
	return all
}

// strike kills one process at random and starts it again a little later; one time
// in five it kills once more, the same or another, before that has recovered. It
// returns how many it killed.
func (s *site) strike(t *testing.T, r *rand.Rand) (what string, kills int) {
	all := s.targets(t)
	for {
		victim := all[r.IntN(len(all))]
		down, recovering, more := r.IntN(400), r.IntN(300), r.IntN(5) == 0
		victim.kill()
		<-time.After(time.Duration(100+down) * time.Millisecond) // the fault itself: how long the process is gone
		victim.start()
		what, kills = what+", then "+victim.name, kills+1
		s.toll[victim.name]++
		if !more {
			return strings.TrimPrefix(what, ", then "), kills
		}
		<-time.After(time.Duration(recovering) * time.Millisecond)
	}
}

func (s *site) tolls() string {
	var all []string
	for _, what := range slices.Sorted(maps.Keys(s.toll)) {
		all = append(all, fmt.Sprintf("%s %d times", what, s.toll[what]))
	}
	return strings.Join(all, ", ")
}

// flows waits until a new request is accepted and answered by way of every gateway,
// and returns how long that took.
func (s *site) flows(t *testing.T) time.Duration {
	t.Helper()
	healed := time.Now()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var all sync.WaitGroup
	for _, g := range s.servers {
		all.Go(func() {
			for ctx.Err() == nil && !answered(ctx, g.URL) {
				<-time.After(20 * time.Millisecond) // until the next try
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		t.Fatal("no work flows")
	}
	return time.Since(healed)
}

// answered tells whether a gateway takes a request and has its reply.
func answered(ctx context.Context, url string) bool {
	ctx, stop := context.WithTimeout(ctx, 2*heal)
	defer stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/services/"+quick+"/requests", strings.NewReader("does it flow?"))
	if err != nil {
		return false
	}
	r.Header.Set("Prefer", "wait=5")
	answer, err := web.Do(r)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}
