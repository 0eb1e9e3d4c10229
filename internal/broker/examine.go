package broker

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// server is what one Redis says of how it keeps data.
type server struct {
	unread     bool   // it does not let its settings be read
	appendonly string // yes or no
	fsync      string // always, everysec or no
	pauses     bool   // does not sync while it rewrites
	policy     string // maxmemory-policy; "" where even that is not told
	rewriting  bool   // the append-only file is being rewritten
	first      bool   // for the first time: it holds nothing yet
	replicas   int    // that follow
	replica    bool   // of another
	alone      string // why it refuses writes for want of replicas; "": it does not
	history    string // its replication ID, another one after a failover
}

// examine asks a server, in one round trip. An error is one of the connection.
func examine(ctx context.Context, c redis.Cmdable) (s server, err error) {
	pipe := c.Pipeline()
	settings := pipe.ConfigGet(ctx, "*append*")
	least := pipe.ConfigGet(ctx, "min-replicas-to-write")
	info := pipe.Info(ctx, "persistence", "memory", "replication")
	_, _ = pipe.Exec(ctx) // each answer has its own error
	text, err := info.Result()
	if err != nil && !saidByRedis(err) {
		return s, err
	}
	// The embedded one has no sections: all of it stays unread.
	s.policy, s.replicas, s.history = infoField(text, "maxmemory_policy"), online(text), infoField(text, "master_replid")
	s.replica = infoField(text, "role") == "slave"
	s.rewriting = infoField(text, "aof_rewrite_in_progress") == "1" || infoField(text, "aof_rewrite_scheduled") == "1" ||
		infoField(text, "aof_last_bgrewrite_status") == "err"
	s.first = s.rewriting && infoField(text, "aof_base_size") == "0"
	// The field is there while a least number is set.
	if good := infoField(text, "min_slaves_good_slaves"); good != "" && number(good) < number(least.Val()["min-replicas-to-write"]) {
		s.alone = fmt.Sprintf("min-replicas-to-write of Redis is %s, and %s follow without delay", least.Val()["min-replicas-to-write"], good)
	}
	said, err := settings.Result()
	switch {
	case err != nil && !saidByRedis(err):
		return s, err
	case err != nil, said["appendonly"] == "", said["appendfsync"] == "": // a hosted one may show a few of its own
		s.unread = true
	}
	s.appendonly, s.fsync, s.pauses = said["appendonly"], said["appendfsync"], said["no-appendfsync-on-rewrite"] == "yes"
	return s, nil
}

// online counts the replicas that follow, in the replication section of INFO.
func online(info string) (n int) {
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(line, ":")
		if strings.HasPrefix(name, "slave") && strings.Contains(value, "state=online") {
			n++
		}
	}
	return n
}

// judge compares a server with what is demanded. ErrUndurable says what is set, what
// that means, and what to do.
func (s server) judge(d Durability) (Kept, error) {
	k := Kept{Durability: d, Auto: d.Mode == Auto}
	k.Asserted = d.Asserted && s.unread && d.Mode != Memory
	if k.Auto {
		k.Durability = Durability{Mode: s.mode()}
	}
	if s.policy != "" && s.policy != "noeviction" {
		return k, undurable("maxmemory-policy of Redis is %s, which drops accepted requests when memory runs short: CONFIG SET maxmemory-policy noeviction", s.policy)
	}
	switch {
	case s.replica:
		return k, notYet("this Redis is a replica, which takes no writes: name its master, or the Sentinels that know it (redis+sentinel://)")
	case s.alone != "":
		return k, notYet("%s: it takes no writes. See to it that its replicas run and follow, or demand fewer", s.alone)
	}
	if k.Auto || k.Mode == Memory || k.Mode == Unpromised {
		return k, nil
	}
	if s.unread && !d.Asserted {
		return k, undurable("durability %s can't be made sure of, since Redis does not let its settings be read. Allow it (ACL SETUSER … +config|get), or look yourself and say durability_asserted: true", d)
	}
	if !s.unread {
		if err := s.misses(d); err != nil {
			return k, err
		}
	}
	if s.replicas < d.Replicas {
		return k, notYet("durability %s needs that many replicas of Redis, and %d follow: accepted requests would be on too few machines. See to it that the others run and follow (REPLICAOF), or demand fewer", d, s.replicas)
	}
	return k, nil
}

// misses says what the settings lack.
func (s server) misses(d Durability) error {
	const then = "; then CONFIG REWRITE, or the next start of Redis forgets it"
	switch {
	case s.appendonly != "yes":
		return undurable("durability %s needs an append-only file, and appendonly of Redis is %s: accepted requests are lost when it ends. CONFIG SET appendonly yes"+then+"; or demand less: durability: memory", d, s.appendonly)
	case s.first:
		return notYet("durability %s needs an append-only file, and Redis is still writing its first one: until that is done, accepted requests are lost when it ends. Wait, or look into its log", d)
	case s.pauses:
		return undurable("no-appendfsync-on-rewrite of Redis is yes: while it rewrites its append-only file, a power cut takes half a minute of accepted requests, and durability is %s. CONFIG SET no-appendfsync-on-rewrite no"+then, d)
	case s.fsync == "no":
		want := "everysec"
		if d.Mode == Fsync {
			want = "always"
		}
		return undurable("appendfsync of Redis is no: a power cut takes half a minute of accepted requests, and durability is %s. CONFIG SET appendfsync %s"+then, d, want)
	case d.Mode == Fsync && s.fsync != "always":
		return undurable("appendfsync of Redis is %s: a power cut takes up to two seconds of accepted requests, and durability is fsync. CONFIG SET appendfsync always"+then+"; or demand less: durability: local", s.fsync)
	}
	return nil
}

// mode is what a server does.
func (s server) mode() Mode {
	switch {
	case s.appendonly != "yes" || s.first || s.pauses || s.fsync == "no":
		return Memory
	case s.fsync == "always":
		return Fsync
	}
	return Local
}

// best is what no server is yet known to fall short of.
var best = Kept{Durability: Durability{Mode: Fsync}}

// and is what holds where both hold: what is not configured is as good as the worst.
func (k Kept) and(other Kept) Kept {
	rank := map[Mode]int{Memory: 1, Local: 2, Fsync: 3}
	if other.Auto && k.Auto && rank[k.Mode] < rank[other.Mode] {
		return k
	}
	other.Asserted = other.Asserted || k.Asserted
	return other
}

func undurable(what string, args ...any) error { return notDurable{fmt.Sprintf(what, args...), false} }

// notYet is what may come by itself: worth to be waited for at a start.
func notYet(what string, args ...any) error { return notDurable{fmt.Sprintf(what, args...), true} }

// notDurable is an ErrUndurable whose text is for an operator.
type notDurable struct {
	text    string
	passing bool
}

func (n notDurable) Error() string { return n.text }

// Is has what passes count as an ErrUnavailable too.
func (n notDurable) Is(target error) bool {
	return target == ErrUndurable || n.passing && target == ErrUnavailable
}
