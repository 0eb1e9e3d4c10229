package broker

import (
	"context"
	"crypto/sha1"
	"embed"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// script is one Lua file behind those that all share, known to Redis by its digest.
type script struct {
	source, sha string
}

var scripts []*script // all of them, for load

// newScript reads the script of a verb. with names what it needs beside what all share.
func newScript(verb string, with ...string) *script {
	s := &script{}
	for _, name := range slices.Concat([]string{"prelude", "line", "share", "dead", "outcome"}, with, []string{verb}) {
		s.source += readLua(name)
	}
	sum := sha1.Sum([]byte(s.source)) // the digest that EVALSHA is defined by
	s.sha = hex.EncodeToString(sum[:])
	scripts = append(scripts, s)
	return s
}

func readLua(name string) string {
	source, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic("broker: " + err.Error()) // embedded: can't be missing in a binary that was built
	}
	return string(source)
}

// load makes the scripts known to Redis, after a connect and after a restart.
func load(ctx context.Context, c redis.Cmdable) error {
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, s := range scripts {
			p.ScriptLoad(ctx, s.source)
		}
		return nil
	})
	return err
}

// run calls the script by its digest, and by its source where Redis has
// forgotten it. args follow the partition's prefix, which is ARGV[1].
func (s *script) run(ctx context.Context, c redis.Cmdable, p partition, keys []string, args ...any) (any, error) {
	args = append([]any{p.prefix()}, args...)
	answer, err := c.EvalSha(ctx, s.sha, keys, args...).Result()
	if isNoScript(err) {
		answer, err = c.Eval(ctx, s.source, keys, args...).Result()
	}
	return answer, err
}

func isNoScript(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT") }
