package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// In a Redis Cluster each partition lives on one of the masters, since all of its keys
// are in one slot. The library finds it, and follows it where it moves: that is
// always safe, since a node that says MOVED or ASK has done nothing.
//
// While a slot migrates, some of its keys are here and some there, and a script that
// touches both kinds would stop in its middle. So with the keys of each script goes
// the fence of its partition, which is never there (see guarded): both nodes refuse a
// script of several keys of which one is missing, before it begins, until the
// slot has arrived.

// errDown is the answer of a node that was found to be away: nothing was sent.
var errDown = errors.New("this node of the Redis Cluster does not answer")

const (
	clusterRedirects = 3               // MOVED, then ASK; and while a slot is on its way
	topologyEvery    = 5 * time.Second // to learn of nodes that came; a MOVED tells of the others
)

// nodes are those of a Redis Cluster.
type nodes struct {
	clients []*redis.ClusterClient
	down    sync.Map // address → error, as health found it
}

// client is one for the cluster.
func (n *nodes) client(s setting) redis.UniversalClient {
	c := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: s.target.Addrs, Username: s.target.User, Password: s.target.Password,
		Dialer: s.dial, TLSConfig: s.target.TLS.Config(),
		Protocol: 2, DisableIdentity: true, MaintNotificationsConfig: noNotifications,
		DialTimeout: dialTimeout, DialerRetries: 1, ReadTimeout: s.timeout, WriteTimeout: commandTimeout,
		ContextTimeoutEnabled: true, MaxRetries: -1, PoolSize: s.pool, PoolTimeout: dialTimeout,
		MaxRedirects: clusterRedirects, ClusterStateReloadInterval: topologyEvery,
		DisableRoutingPolicies: true, // each command here has the keys of one slot, or its node is chosen
		NewClient: func(o *redis.Options) *redis.Client {
			if s.looked != nil {
				o.OnConnect = func(ctx context.Context, c *redis.Conn) error {
					s.looked(ctx, c, o.Addr)
					return nil
				}
			}
			node := redis.NewClient(o)
			node.AddHook(gate{n, o.Addr})
			return node
		},
	})
	n.clients = append(n.clients, c)
	return c
}

// reload has all clients learn who has which slot.
func (n *nodes) reload(ctx context.Context) {
	for _, c := range n.clients {
		c.ReloadState(ctx)
	}
}

// misled has it looked up who has which slot, where the answer of a node says that it is
// another.
func (b *Broker) misled(ctx context.Context, err error) {
	if b.redis.nodes == nil || err == nil {
		return
	}
	for _, code := range []string{"MOVED", "ASK", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN"} {
		if redis.HasErrorPrefix(err, code) {
			b.redis.nodes.reload(ctx)
			return
		}
	}
}

// at is the client of the master that has a key.
func (c clients) at(ctx context.Context, key string) (redis.UniversalClient, error) {
	if cluster, ok := c.commands.(*redis.ClusterClient); ok {
		return cluster.MasterForKey(ctx, key)
	}
	return c.commands, nil
}

// name is what the master that has a key is called; "" where there is one server.
func (c clients) name(key string) string {
	cluster, ok := c.commands.(*redis.ClusterClient)
	if !ok {
		return ""
	}
	master, err := cluster.MasterForKey(context.Background(), key)
	if err != nil {
		return ""
	}
	return master.Options().Addr
}

// server is what the server that has a partition is called; "" where there is one.
func (b *Broker) server(p partition) string {
	if b.redis.nodes == nil {
		return ""
	}
	return b.redis.name(p.due())
}

// master is one server that has records.
type master struct {
	redis.UniversalClient
	name string
	has  []partition
}

// masters are all of them, those of the keys of no partition too.
func (b *Broker) masters(ctx context.Context) (all []*master, err error) {
	if b.redis.nodes == nil {
		return []*master{{UniversalClient: b.redis.commands, has: []partition{{}}}}, nil
	}
	known := map[string]*master{}
	add := func(key string, has ...partition) error {
		c, err := b.redis.at(ctx, key)
		if err != nil {
			return fault("find the masters of the Redis Cluster", err)
		}
		name := c.(*redis.Client).Options().Addr
		m := known[name]
		if m == nil {
			m = &master{UniversalClient: c, name: name}
			known[name], all = m, append(all, m)
		}
		m.has = append(m.has, has...)
		return nil
	}
	parts := []partition{{}}
	if d := b.shared.Load(); d != nil {
		parts = d.parts
	}
	for _, p := range parts {
		if err := add(p.due(), p); err != nil {
			return nil, err
		}
	}
	for _, key := range commonKeys {
		if err := add(key); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Idle is how many masters a Redis Cluster has, and how many of them no partition lives
// on, so that they have next to nothing to do; none and none where there is one server.
func (b *Broker) Idle(ctx context.Context) (masters, idle int, err error) {
	if b.redis.nodes == nil {
		return 0, 0, nil
	}
	var count atomic.Int64
	cluster := b.redis.commands.(*redis.ClusterClient)
	if err := cluster.ForEachMaster(ctx, func(context.Context, *redis.Client) error { count.Add(1); return nil }); err != nil {
		return 0, 0, fault("find the masters of the Redis Cluster", err)
	}
	used, err := b.byMaster(ctx, b.parts())
	if err != nil {
		return 0, 0, fault("find the masters of the Redis Cluster", err)
	}
	masters = int(count.Load())
	return masters, max(masters-len(used), 0), nil
}

// eachMaster calls do for all of them that are there at once; the error is of the first that has one.
func (b *Broker) eachMaster(ctx context.Context, do func(context.Context, *master) error) error {
	all, err := b.masters(ctx)
	if err != nil {
		return err
	}
	if len(all) == 1 {
		return do(ctx, all[0])
	}
	all = slices.DeleteFunc(all, func(m *master) bool {
		_, down := b.redis.nodes.down.Load(m.name)
		return down
	})
	errs := make([]error, len(all))
	var each sync.WaitGroup
	for i, m := range all {
		each.Go(func() { errs[i] = do(ctx, m) })
	}
	each.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// subscriber is the client for a subscription: each node of a Redis Cluster passes on what
// is published at any, so any that is there will do.
func (b *Broker) subscriber(ctx context.Context) (redis.UniversalClient, error) {
	cluster, ok := b.redis.pubsub.(*redis.ClusterClient)
	if !ok {
		return b.redis.pubsub, nil
	}
	c, err := cluster.MasterForKey(ctx, b.anyPartition(rand.IntN).due())
	if err != nil {
		return nil, fault("find the masters of the Redis Cluster", err)
	}
	return c, nil
}

// byMaster are partitions grouped by the master that has them.
func (b *Broker) byMaster(ctx context.Context, partitions []partition) (groups []*master, err error) {
	if b.redis.nodes == nil {
		return []*master{{UniversalClient: b.redis.commands, has: partitions}}, nil
	}
	for _, p := range partitions {
		c, err := b.redis.at(ctx, p.due())
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(groups, func(m *master) bool { return m.UniversalClient == c })
		if i < 0 {
			i, groups = len(groups), append(groups, &master{UniversalClient: c})
		}
		groups[i].has = append(groups[i].has, p)
	}
	return groups, nil
}

// gate refuses what is for a node that is away: each command would wait for its
// timeout, and hold up what is for the others in the same pipeline.
type gate struct {
	nodes *nodes
	addr  string
}

type past struct{} // key of a context: the gate is open

func (g gate) closed(ctx context.Context) error {
	if ctx.Value(past{}) != nil {
		return nil
	}
	if _, down := g.nodes.down.Load(g.addr); down {
		return errDown
	}
	return nil
}

func (g gate) DialHook(next redis.DialHook) redis.DialHook { return next }

func (g gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := g.closed(ctx); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

func (g gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := g.closed(ctx); err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
}

// guarded are the keys of a script that may begin only while all keys of its partition
// are in one place.
func (c clients) guarded(p partition, keys []string) []string {
	if c.nodes == nil {
		return keys
	}
	return append(slices.Clip(keys), p.fence())
}

// anyPartition is one for what may be at home anywhere: where the master is there, and has room.
func (b *Broker) anyPartition(choose func(int) int) partition {
	all := b.parts()
	i := choose(len(all))
	p := all[i]
	if b.redis.nodes == nil {
		return p
	}
	for n := range all {
		p = all[(i+n)%len(all)]
		if b.readyAt(p) == nil && b.wrongAt(p) == nil && !b.memoryAt(p).full.Load() {
			return p
		}
	}
	return p
}
