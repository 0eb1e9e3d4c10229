package quickredis

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/alicebob/miniredis/v2/server"
	lua "github.com/yuin/gopher-lua"
)

// interpreter runs one script after the other. The lock of miniredis guards it.
type interpreter struct {
	state   *lua.LState // nil before the first script, and after one that was in error
	globals []global    // of every script
	sha     string      // of the script that runs

	peer   *server.Peer // what the commands of scripts come from
	out    *bufio.Writer
	answer bytes.Buffer // what they are answered
}

type global struct {
	name  string
	value lua.LValue
}

// run runs a script for a connection. False where it is left to miniredis, which then
// knows why; nothing has been done.
func (r *Redis) run(c *server.Peer, script *script, args []string) bool {
	if len(args) == 0 {
		return false
	}
	n, err := strconv.Atoi(args[0])
	if args = args[1:]; script.proto == nil || err != nil || n < 0 || n > len(args) {
		return false
	}
	r.Lock()
	defer r.Unlock()
	l := r.ready()
	r.sha, r.peer.Ctx = script.sha, scriptContext()
	for _, g := range r.globals {
		l.G.Global.RawSetString(g.name, g.value)
	}
	l.G.Global.RawSetString("KEYS", list(l, args[:n]))
	l.G.Global.RawSetString("ARGV", list(l, args[n:]))
	l.Push(l.NewFunctionFromProto(script.proto))
	if err := l.PCall(0, lua.MultRet, nil); err != nil {
		c.WriteError("ERR Error compiling script (new function): " + err.Error()) // as miniredis says it
		l.Close()
		r.state = nil
		return true
	}
	reply := appendReply(nil, l, c.Resp3, l.Get(1))
	l.SetTop(0)
	c.Block(func(w *server.Writer) { w.WriteRaw(string(reply)) })
	return true
}

func list(l *lua.LState, values []string) *lua.LTable {
	t := l.CreateTable(len(values), 0)
	for _, v := range values {
		t.Append(lua.LString(v))
	}
	return t
}

// ready is the interpreter, which is made where there is none.
func (r *Redis) ready() *lua.LState {
	if r.state != nil {
		return r.state
	}
	l := lua.NewState(lua.Options{SkipOpenLibs: true, RegistrySize: 1024, RegistryMaxSize: lua.RegistrySize})
	for _, lib := range []struct {
		name string
		open lua.LGFunction
	}{{lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable}, {lua.StringLibName, lua.OpenString}, {lua.MathLibName, lua.OpenMath}} {
		l.Push(l.NewFunction(lib.open))
		l.Push(lua.LString(lib.name))
		l.Call(1, 0)
	}
	l.SetGlobal("redis", l.SetFuncs(l.NewTable(), map[string]lua.LGFunction{
		"call": func(l *lua.LState) int { return r.call(l, true) }, "pcall": func(l *lua.LState) int { return r.call(l, false) },
		"error_reply": errorReply, "status_reply": statusReply, "sha1hex": sha1hex,
	}))
	r.globals = nil
	l.G.Global.ForEach(func(name, value lua.LValue) { r.globals = append(r.globals, global{name.String(), value}) })
	l.G.Global.Metatable = l.SetFuncs(l.NewTable(), map[string]lua.LGFunction{
		"__newindex": func(l *lua.LState) int {
			l.Error(lua.LString("Script attempted to create global variable '"+l.ToStringMeta(l.Get(2)).String()+"'"), 2)
			return 0
		},
		"__index": func(l *lua.LState) int {
			l.Error(lua.LString("Script attempted to access nonexistent global variable '"+l.ToStringMeta(l.Get(2)).String()+"'"), 2)
			return 0
		},
	})
	r.answer.Reset()
	r.out = bufio.NewWriter(&r.answer)
	r.peer = server.NewPeer(r.out)
	r.state = l
	return l
}

// call has miniredis do a command of a script.
func (r *Redis) call(l *lua.LState, raise bool) int {
	args := make([]string, l.GetTop())
	for i := range args {
		switch a := l.Get(i + 1).(type) {
		case lua.LString:
			args[i] = string(a)
		case lua.LNumber:
			args[i] = a.String()
		default:
			l.Error(lua.LString("Lua redis lib command arguments must be strings or integers script: "+r.sha+", &c."), 1)
		}
	}
	if len(args) == 0 {
		l.Error(lua.LString("Please specify at least one argument for this redis lib call script: "+r.sha+", &c."), 1)
	}
	r.answer.Reset()
	r.peer.Resp3, r.peer.SwitchResp3 = false, nil // a script's HELLO is only its own
	r.server.Dispatch(r.peer, args)
	r.out.Flush()
	value, _, err := parseReply(l, r.answer.Bytes())
	if err == nil {
		l.Push(value)
		return 1
	}
	message := strings.ReplaceAll(err.Error(), compile(findInner).sha, r.sha) // miniredis takes that for the one that runs
	unknown := strings.Contains(message, "ERR unknown command")
	switch {
	case raise && unknown:
		message = "Unknown Redis command called from script script: " + r.sha + ", &c."
	case unknown:
		message = "ERR Unknown Redis command called from script"
	}
	if raise {
		l.Error(lua.LString(message), 1)
	}
	l.Push(pair(l, "err", message))
	return 1
}

func pair(l *lua.LState, name, value string) *lua.LTable {
	t := l.CreateTable(0, 1)
	t.RawSetString(name, lua.LString(value))
	return t
}

func errorReply(l *lua.LState) int {
	code, text, more := strings.Cut(onlyString(l), " ")
	code = strings.TrimPrefix(code, "-")
	if !more {
		code, text = "ERR", code
	}
	l.Push(pair(l, "err", fmt.Sprintf("%s %s", code, text)))
	return 1
}

func statusReply(l *lua.LState) int {
	l.Push(pair(l, "ok", onlyString(l)))
	return 1
}

func sha1hex(l *lua.LState) int {
	if l.GetTop() != 1 {
		l.Error(lua.LString("wrong number of arguments"), 1)
	}
	sum := sha1.Sum([]byte(lua.LVAsString(l.Get(1))))
	l.Push(lua.LString(hex.EncodeToString(sum[:])))
	return 1
}

func onlyString(l *lua.LState) string {
	s, ok := l.Get(1).(lua.LString)
	if !ok {
		l.Error(lua.LString("wrong number or type of arguments"), 1)
	}
	return string(s)
}
