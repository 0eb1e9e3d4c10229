package faults_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	clusterPartitions = 6
	goesOn            = "the other masters' requests go on; " + recovers + "; no command across slots"
)

// openCluster starts a house on a Redis Cluster.
func openCluster(r *round, replicas int, change ...func(*config.Config)) (*house, *redistest.Cluster) {
	r.Helper()
	c := redistest.StartCluster(r, 3, replicas, "--appendonly", "yes", "--appendfsync", "always")
	change = append(change, func(c *config.Config) { c.Partitions = clusterPartitions })
	return openAt(r, c.URL, change...), c
}

// underCluster is under with a Redis Cluster. It returns how often nodes sent a command to
// another one, by how they said so.
func underCluster(r *round, replicas int, broken func(*house, *redistest.Cluster), change ...func(*config.Config)) (sent map[string]int) {
	h, c := openCluster(r, replicas, change...)
	l := h.load()
	<-time.After(time.Second) // under load
	broken(h, c)
	r.within("flowed again in every partition after", h.flowsEverywhere(clusterPartitions), heal)
	<-time.After(time.Second) // under load, healed
	l.audit()
	return h.sound(c)
}

// flowsEverywhere waits until requests of every partition are accepted and answered.
func (h *house) flowsEverywhere(partitions int) time.Duration {
	h.Helper()
	healed, seen := time.Now(), map[int]bool{}
	ctx, stop := context.WithTimeout(h.Context(), time.Minute)
	defer stop()
	for n := 0; len(seen) < partitions; n++ {
		body := fmt.Sprintf("everywhere? %d %v", n, healed)
		a, err := call(ctx, "POST", h.gates[n%len(h.gates)].url+"/v1/services/echo/requests", body, "Prefer", "wait=5")
		if ctx.Err() != nil {
			h.Fatalf("work flows in %d partitions only", len(seen))
		}
		if id, bad := correlation.Parse(a.header.Get("X-Correlation-Id")); err == nil && bad == nil && a.code == http.StatusOK {
			seen[id.Partition()] = true
		}
	}
	return time.Since(healed)
}

// tags are those of all partitions.
func tags(r *round, c *redistest.Cluster) []string {
	text, err := c.Client.HGet(r.Context(), "cc:config", "tags").Result()
	if err != nil {
		r.Fatal(err)
	}
	return strings.Split(text, ",")
}

// tagged is a key in the slot of a partition.
func tagged(tag string) string { return "cc:{" + tag + "}:due" }

// one is a master that has a partition.
func (r *round) one(c *redistest.Cluster) *redistest.Redis {
	return c.Master(r, tagged(tags(r, c)[r.draw(clusterPartitions)]))
}

// migrating moves the slot of every partition from master to master.
//
// Planted: scripts without the fence among their keys; they stop in their middle, and make
// keys anew that are there already.
func migrating(r *round) {
	sent := underCluster(r, 0, func(_ *house, c *redistest.Cluster) {
		moved := 0
		for turn := range 2 {
			for _, tag := range tags(r, c) {
				from := slices.Index(c.Nodes, c.Master(r, tagged(tag)))
				c.Migrate(r, tagged(tag), c.Nodes[(from+1+turn)%3], func() { <-time.After(r.pause(200 * time.Millisecond)) })
				moved++
			}
		}
		r.finds("%d slots moved", moved)
	})
	r.finds("%d times MOVED, %d ASK, %d TRYAGAIN", sent["MOVED"], sent["ASK"], sent["TRYAGAIN"])
	if sent["MOVED"] == 0 || sent["ASK"]+sent["TRYAGAIN"] == 0 {
		r.Error("nobody asked the wrong node: this shows nothing of it")
	}
}

// failover kills a master, whose replica takes over; it comes back as a replica.
//
// Planted: what one master keeps worse than is demanded stops the requests of all.
func failover(r *round) {
	underCluster(r, 1, func(h *house, c *redistest.Cluster) {
		gone := r.one(c)
		h.others(func() {
			h.asked(gone) // what it refused so far is forgotten with it
			gone.Kill()
			<-time.After(5 * time.Second)
		})
		gone.Restart(r)
	}, func(c *config.Config) {
		c.Durability = "replicated(1)"
	})
}

// stands has a master stand still for 10 s, without a replica.
//
// Planted: a master that was away once is taken for away for ever.
func stands(r *round) {
	underCluster(r, 0, func(h *house, c *redistest.Cluster) {
		gone := r.one(c)
		h.others(func() {
			gone.Pause()
			<-time.After(10 * time.Second)
		})
		gone.Resume()
	})
}

// bereaved kills a master that has no replica, and starts it after 10 s.
//
// Planted: where one master is away, Redis is taken for away.
func bereaved(r *round) {
	underCluster(r, 0, func(h *house, c *redistest.Cluster) {
		gone := r.one(c)
		h.others(func() {
			h.asked(gone)
			gone.Kill()
			<-time.After(10 * time.Second)
		})
		gone.Restart(r)
	})
}

// others counts requests that may be anywhere, and are accepted and answered while
// something lasts.
func (h *house) others(while func()) {
	h.Helper()
	ctx, stop := context.WithCancel(h.Context())
	var answered, refused, unknown atomic.Int64
	longest := make(chan time.Duration, 1)
	go func() {
		last, most := time.Now(), time.Duration(0)
		for n := 0; ctx.Err() == nil; n++ {
			once, end := context.WithTimeout(ctx, patience)
			body := fmt.Sprint("anywhere ", n)
			a, err := call(once, "POST", h.gates[n%len(h.gates)].url+"/v1/services/echo/requests", body, "Prefer", "wait=5")
			end()
			switch {
			case ctx.Err() != nil:
			case err == nil && a.code == http.StatusOK && a.body == body:
				answered.Add(1)
				most, last = max(most, time.Since(last)), time.Now()
			case err == nil && a.code == http.StatusServiceUnavailable && a.header.Get("Retry-After") != "":
				refused.Add(1)
			case err == nil && (a.code == http.StatusGatewayTimeout || a.code == http.StatusAccepted):
				unknown.Add(1)
			default:
				h.Errorf("a submit while a master is gone: %d %s, %v", a.code, a.body, err)
			}
		}
		longest <- max(most, time.Since(last))
	}()
	while()
	stop()
	gap := <-longest
	h.finds("meanwhile %d anywhere answered, %d refused, %d open or unknown", answered.Load(), refused.Load(), unknown.Load())
	h.within("longest without an answer", gap, heal)
	if answered.Load() == 0 {
		h.Error("nothing went on")
	}
}

// sound fails where a node refused what should never have been asked. It returns how
// often nodes sent a command to another one, by how they said so.
func (h *house) sound(c *redistest.Cluster) map[string]int {
	h.Helper()
	all := map[string]int{}
	for _, n := range c.Nodes {
		for what, times := range h.asked(n) {
			all[what] += times
		}
	}
	h.finds("%d CROSSSLOT", all["CROSSSLOT"])
	return all
}

// asked is what a node refused, and how often; nothing where it is gone.
func (h *house) asked(node *redistest.Redis) map[string]int {
	h.Helper()
	refused := map[string]int{}
	info, err := node.Client.Info(h.Context(), "errorstats").Result()
	if err != nil {
		return nil
	}
	for line := range strings.Lines(info) {
		what, times, _ := strings.Cut(strings.TrimPrefix(line, "errorstat_"), ":count=")
		refused[what], _ = strconv.Atoi(strings.TrimSpace(times))
		switch what {
		case "CROSSSLOT":
			h.Error(line)
		case "ERR":
			h.Error("a script stopped in its middle, or a command was none: " + line)
		}
	}
	return refused
}
