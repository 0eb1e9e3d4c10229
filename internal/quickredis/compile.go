package quickredis

import (
	"slices"
	"strings"
	"sync"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"
)

// protos are the scripts of this process by their source: *lua.FunctionProto, nil for
// one that is left to miniredis.
var protos sync.Map

// compile returns what runs a script, or nil where it is left to miniredis: it can't
// be compiled, or is not ordinary.
func compile(source string) *lua.FunctionProto {
	if known, ok := protos.Load(source); ok {
		return known.(*lua.FunctionProto)
	}
	var proto *lua.FunctionProto
	if chunk, err := parse.Parse(strings.NewReader(source), "<string>"); err == nil {
		if p, err := lua.Compile(chunk, ""); err == nil && ordinary(p) {
			proto = p
		}
	}
	protos.Store(source, proto)
	return proto
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
