package quickredis

import (
	"crypto/sha1"
	"encoding/hex"
	"slices"
	"strings"
	"sync"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"
)

// script is what is known of a source.
type script struct {
	sha   string
	proto *lua.FunctionProto // nil where it is left to miniredis: it can't be compiled, or is not ordinary
}

var compiled sync.Map // *script by source, of this process

func compile(source string) *script {
	if known, ok := compiled.Load(source); ok {
		return known.(*script)
	}
	sum := sha1.Sum([]byte(source)) // what EVALSHA is defined by
	s := &script{sha: hex.EncodeToString(sum[:])}
	if chunk, err := parse.Parse(strings.NewReader(source), "<string>"); err == nil {
		if p, err := lua.Compile(chunk, ""); err == nil && ordinary(p) {
			s.proto = p
		}
	}
	compiled.Store(source, s)
	return s
}

// extraordinary are the names of what the interpreter here does not have, and of what
// would let a script leave something behind for the next.
var extraordinary = []string{
	"_G", "cjson", "collectgarbage", "coroutine", "debug", "dofile", "getfenv", "getmetatable", "json", "load", "loadfile", "loadstring",
	"module", "newproxy", "os", "package", "print", "_printregs", "rawget", "rawset", "require", "server", "setfenv", "setmetatable",
	"log", "replicate_commands", "set_repl", "setresp", "LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING", // of redis
}

// ordinary tells whether a function and those in it need nothing extraordinary. Whatever
// is reached by a name has that name among its constants.
func ordinary(p *lua.FunctionProto) bool {
	for _, c := range p.Constants {
		if s, ok := c.(lua.LString); ok && slices.Contains(extraordinary, string(s)) {
			return false
		}
	}
	return !slices.ContainsFunc(p.FunctionPrototypes, func(inner *lua.FunctionProto) bool { return !ordinary(inner) })
}
