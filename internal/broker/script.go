package broker

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// script is one Lua file behind those that all share, known to Redis by its digest.
type script struct {
	source, sha string
}

var scripts []*script // all of them, for load

// newScript reads the script of a verb that moves requests. with names what it needs
// beside what all of those share.
func newScript(verb string, with ...string) *script {
	return scriptOf(slices.Concat([]string{"prelude", "record", "moves", "line", "share", "dead", "outcome"}, with, []string{verb})...)
}

// newPlainScript reads the script of a verb that moves none.
func newPlainScript(verb string) *script { return scriptOf("prelude", "record", "moves", verb) }

// scriptOf reads the last of files, behind what that needs of those before it. Where it
// begins with a block, that comes first: it says that there is nothing to do, before
// Redis makes the functions that something would need.
func scriptOf(files ...string) *script {
	last := len(files) - 1
	look, verb := "", luaFile(files[last]).text
	if end := strings.Index(verb, "\nend\n"); strings.HasPrefix(verb, "do\n") && end > 0 {
		look, verb = verb[:end+5], verb[end+5:]
	}
	s := &script{source: look + needed(files[:last], verb)}
	sum := sha1.Sum([]byte(s.source)) // the digest that EVALSHA is defined by
	s.sha = hex.EncodeToString(sum[:])
	scripts = append(scripts, s)
	return s
}

// load makes the scripts known to every master.
func (b *Broker) load(ctx context.Context) error {
	return b.eachMaster(ctx, func(ctx context.Context, m *master) error { return load(ctx, m) })
}

// load makes the scripts known to a server that are not, after a connect and after a
// restart: all of them are half a megabyte.
func load(ctx context.Context, c redis.Cmdable) error {
	digests := make([]string, len(scripts))
	for i, s := range scripts {
		digests[i] = s.sha
	}
	known, err := c.ScriptExists(ctx, digests...).Result()
	if err != nil || !slices.Contains(known, false) {
		return err
	}
	_, err = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, s := range scripts {
			if !known[i] {
				p.ScriptLoad(ctx, s.source)
			}
		}
		return nil
	})
	return err
}

// run calls the script by its digest, and by its source where Redis has
// forgotten it. args follow the partition's prefix, which is ARGV[1].
func (s *script) run(ctx context.Context, c clients, p partition, keys []string, args ...any) (any, error) {
	args = append([]any{p.prefix()}, args...)
	if strings.HasPrefix(keys[0], p.prefix()) {
		keys = c.guarded(p, keys)
	}
	answer, err := c.commands.EvalSha(ctx, s.sha, keys, args...).Result()
	if isNoScript(err) {
		answer, err = c.commands.Eval(ctx, s.source, keys, args...).Result()
	}
	return answer, err
}

// in puts a call of the script into a pipeline.
func (s *script) in(ctx context.Context, pipe redis.Pipeliner, c clients, p partition, keys []string, args ...any) *redis.Cmd {
	return pipe.EvalSha(ctx, s.sha, c.guarded(p, keys), append([]any{p.prefix()}, args...)...)
}

func isNoScript(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT") }

// flag is how a script is told yes or no.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
