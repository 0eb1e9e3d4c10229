package redistest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// After how many ms without an answer a node of a cluster counts as gone: soon where a
// replica is to take over, and never by a machine's being slow where there is none.
const (
	soon  = "1000"
	never = "15000"
)

// slots is how many a Redis Cluster has.
const slots = 16384

// Cluster is a Redis Cluster of one test.
type Cluster struct {
	// URL is what broker.Options.URL takes.
	URL string
	// Client is for the test's own looks at the data; nil where the cluster speaks TLS.
	Client *redis.ClusterClient
	// Nodes are the masters, then their replicas in the same order.
	Nodes []*Redis
}

// StartCluster starts a Redis Cluster of so many masters, each with so many replicas,
// and waits until it takes commands. It goes on without the slots of a master that is
// gone. The masters share the slots evenly.
func StartCluster(t testing.TB, masters, replicas int, args ...string) *Cluster {
	t.Helper()
	return startCluster(t, masters, replicas, false, args)
}

// StartTLSCluster is StartCluster for one without replicas that takes its clients, and
// links its nodes, by TLS alone: it names no other ports. Each node has one without TLS
// besides, for the test's own looks.
func StartTLSCluster(t testing.TB, masters int, certificate, key string) *Cluster {
	t.Helper()
	return startCluster(t, masters, 0, true, []string{
		"--tls-cluster", "yes", "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate, "--tls-auth-clients", "no",
	})
}

func startCluster(t testing.TB, masters, replicas int, secure bool, args []string) *Cluster {
	t.Helper()
	n := masters * (1 + replicas)
	ports, buses, ids, lines := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i := range n {
		ports[i], buses[i], ids[i] = freePort(t), freePort(t), fmt.Sprintf("%040x", i+1)
		role, has := "master -", ""
		if i < masters {
			has = fmt.Sprintf(" %d-%d", i*slots/masters, (i+1)*slots/masters-1)
		} else {
			role = "slave " + ids[i%masters]
		}
		epoch := i%masters + 1
		lines[i] = fmt.Sprintf("%s 127.0.0.1:%s@%s %%s%s 0 0 %d connected%s", ids[i], ports[i], buses[i], role, epoch, has)
	}
	timeout := never
	if replicas > 0 {
		timeout = soon
	}
	c := &Cluster{}
	addrs := make([]string, n)
	for i := range n { // they know each other from the start, which spares them to meet
		var known strings.Builder
		for j, line := range lines {
			self := ""
			if i == j {
				self = "myself,"
			}
			fmt.Fprintf(&known, line+"\n", self)
		}
		fmt.Fprintf(&known, "vars currentEpoch %d lastVoteEpoch 0\n", masters)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "nodes.conf"), []byte(known.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		plain, args := ports[i], args
		if secure {
			plain, args = freePort(t), append([]string{"--tls-port", ports[i]}, args...)
		}
		c.Nodes = append(c.Nodes, start(t, plain, dir, append([]string{
			"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", buses[i],
			"--cluster-node-timeout", timeout, "--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0",
		}, args...)...))
		addrs[i] = "127.0.0.1:" + ports[i]
	}
	c.URL = "redis+cluster://" + strings.Join(addrs, ",")
	if secure {
		c.URL = "rediss+cluster://" + strings.Join(addrs, ",")
	} else {
		c.Client = redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs, DisableIdentity: true, MaintNotificationsConfig: quiet})
		t.Cleanup(func() { c.Client.Close() })
	}
	for _, r := range c.Nodes {
		until(t, "a node of the cluster is ready", func(ctx context.Context) bool {
			info, err := r.Client.ClusterInfo(ctx).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok")
		})
	}
	for _, r := range c.Nodes[masters:] {
		until(t, "a replica follows", func(ctx context.Context) bool {
			info, err := r.Client.Info(ctx, "replication").Result()
			return err == nil && strings.Contains(info, "master_link_status:up")
		})
	}
	for _, r := range c.Nodes { // what was asked of them so far does not count in their statistics
		if err := r.Client.ConfigResetStat(context.Background()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// Master is the node that has a key now.
func (c *Cluster) Master(t testing.TB, key string) *Redis {
	t.Helper()
	var found *Redis
	until(t, "a master has "+key, func(ctx context.Context) bool {
		for _, r := range c.Nodes {
			if err := r.Client.Type(ctx, key).Err(); err == nil { // a replica says MOVED
				found = r
				return true
			}
		}
		return false
	})
	return found
}

// Migrate moves a slot with all its keys to another master, while others use them.
// between is called once when it is on its way, with some of the keys; nil for nothing.
func (c *Cluster) Migrate(t testing.TB, key string, to *Redis, between func()) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 60*time.Second)
	defer stop()
	from := c.Master(t, key)
	must := func(err error) {
		if err != nil {
			t.Fatalf("migrate the slot of %s: %v", key, err)
		}
	}
	slot, err := from.Client.ClusterKeySlot(ctx, key).Result()
	must(err)
	source, target := from.nodeID(ctx, t), to.nodeID(ctx, t)
	host, port, _ := strings.Cut(to.Client.Options().Addr, ":")
	must(to.Client.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", source).Err())
	must(from.Client.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", target).Err())
	for {
		keys, err := from.Client.ClusterGetKeysInSlot(ctx, int(slot), 10).Result()
		must(err)
		if len(keys) == 0 {
			break
		}
		args := []any{"MIGRATE", host, port, "", 0, 5000, "KEYS"}
		for _, k := range keys {
			args = append(args, k)
		}
		must(from.Client.Do(ctx, args...).Err())
		if between != nil {
			between()
			between = nil
		}
	}
	must(to.Client.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", target).Err())
	must(from.Client.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", target).Err())
}

func (r *Redis) nodeID(ctx context.Context, t testing.TB) string {
	t.Helper()
	id, err := r.Client.ClusterMyID(ctx).Result()
	if err != nil {
		t.Fatalf("ask a node for its ID: %v", err)
	}
	return id
}

// Sentinel starts a Redis Sentinel that watches a master by the name of mymaster, waits
// until it knows its replica, which must follow by then, and returns its address. One alone decides about a failover, after a second and a half.
func (r *Redis) Sentinel(t testing.TB) string {
	t.Helper()
	host, port, _ := strings.Cut(r.Client.Options().Addr, ":")
	dir, at := t.TempDir(), freePort(t)
	file := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor mymaster %s %s 1\nsentinel down-after-milliseconds mymaster 1500\nsentinel failover-timeout mymaster 3000\n", host, port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := launch(t, at, dir, []string{file, "--sentinel", "--port", at, "--bind", "127.0.0.1", "--dir", dir})
	until(t, "the Sentinel knows the master", func(ctx context.Context) bool {
		state, err := redis.NewSentinelClient(&redis.Options{Addr: s.Client.Options().Addr, DisableIdentity: true}).Master(ctx, "mymaster").Result()
		return err == nil && state["flags"] == "master" && state["num-slaves"] == "1"
	})
	return s.Client.Options().Addr
}

// until polls: servers of Redis say of nothing that it has happened.
func until(t testing.TB, what string, is func(context.Context) bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	for !is(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
