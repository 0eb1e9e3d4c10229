package quickredis

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

var errReply = errors.New("invalid request") // as miniredis calls an answer that it does not understand

// parseReply reads one answer of Redis as a script sees it. An error that Redis
// answered is returned as one.
func parseReply(l *lua.LState, b []byte) (v lua.LValue, rest []byte, err error) {
	end := bytes.IndexByte(b, '\n')
	if end < 2 {
		return nil, nil, errReply
	}
	kind, line, rest := b[0], string(b[1:end-1]), b[end+1:]
	switch kind {
	case '+':
		return pair(l, "ok", line), rest, nil
	case '-':
		return nil, rest, errors.New(line)
	}
	n, err := strconv.Atoi(line)
	switch {
	case err != nil:
		return nil, nil, errReply
	case kind == ':':
		return lua.LNumber(n), rest, nil
	case n < 0 && (kind == '$' || kind == '*'):
		return lua.LFalse, rest, nil
	case kind == '$' && len(rest) >= n+2:
		return lua.LString(rest[:n]), rest[n+2:], nil
	case kind == '*':
		t := l.CreateTable(n, 0)
		for range n {
			if v, rest, err = parseReply(l, rest); err != nil {
				return nil, nil, err
			}
			t.Append(v)
		}
		return t, rest, nil
	}
	return nil, nil, errReply
}

// appendReply writes what a script returned as Redis answers it.
func appendReply(b []byte, l *lua.LState, resp3 bool, value lua.LValue) []byte {
	switch v := value.(type) {
	case lua.LBool:
		if v {
			return append(b, ":1\r\n"...)
		}
	case lua.LNumber:
		b = strconv.AppendInt(append(b, ':'), int64(v), 10)
		return append(b, "\r\n"...)
	case lua.LString:
		b = strconv.AppendInt(append(b, '$'), int64(len(v)), 10)
		b = append(append(b, "\r\n"...), v...)
		return append(b, "\r\n"...)
	case *lua.LTable:
		if text := v.RawGetString("err"); text != lua.LNil {
			return appendLine(b, '-', text.String())
		}
		if text := v.RawGetString("ok"); text != lua.LNil {
			return appendLine(b, '+', text.String())
		}
		n := 0
		for l.RawGetInt(v, n+1) != lua.LNil {
			n++
		}
		b = strconv.AppendInt(append(b, '*'), int64(n), 10)
		b = append(b, "\r\n"...)
		for i := range n {
			b = appendReply(b, l, resp3, l.RawGetInt(v, i+1))
		}
		return b
	}
	if resp3 {
		return append(b, "_\r\n"...)
	}
	return append(b, "$-1\r\n"...)
}

// appendLine writes an answer that is a line, and stays one.
func appendLine(b []byte, kind byte, text string) []byte {
	b = append(append(b, kind), strings.NewReplacer("\r", " ", "\n", " ", "\t", " ", "\v", " ", "\f", " ").Replace(text)...)
	return append(b, "\r\n"...)
}
