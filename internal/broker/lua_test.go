package broker

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// A script has what it needs of the files that several share, and no more.
func TestScriptHasWhatItNeeds(t *testing.T) {
	for _, s := range scripts {
		used := map[string]int{}
		for _, name := range regexp.MustCompile(`\w+`).FindAllString(s.source, -1) {
			used[name]++
		}
		for _, m := range regexp.MustCompile(`(?m)^local function (\w+)`).FindAllStringSubmatch(s.source, -1) {
			if used[m[1]] < 2 {
				t.Errorf("%s has %s, which it does not use", s.sha, m[1])
			}
		}
	}
	for _, kept := range []string{"local function finish(", "share_out = function(", "local time_out, gather", "local WEEK = ", "local function append("} {
		if !strings.Contains(settleScript.source, kept) {
			t.Errorf("settle.lua lost %q", kept)
		}
	}
	for s, dropped := range map[*script]string{stewardScript: "local function load(", statusScript: "local function finish("} {
		if strings.Contains(s.source, dropped) {
			t.Errorf("%s has %q, which it does not need", s.sha, dropped)
		}
	}
}

// What few plain outcomes need is made only for those: how a line moves up, how a callback
// is owed and another gateway told.
func TestScriptMakesWhatItNeeds(t *testing.T) {
	for s, rare := range map[*script]map[string][]string{
		succeedScript: {
			"owe, bind, tell = (function()": {"local function told(", "local function binding(", "local function owe("},
			"if lined() then":               {"local function make_room(", "local function in_line("},
			"local function let_go(":        {"local function load(", "local function release(", "local function enqueue("},
		},
		directScript: {
			"local stand = (function()": {"local function policy(", "local function line_key("},
			"limit = (function()":       {"local function limited(", "local function open_line("},
			"more = (function()":        {"local function lines("},
		},
	} {
		for place, names := range rare {
			before, behind, found := strings.Cut(s.source, place)
			if !found {
				t.Errorf("no script has %q", place)
			}
			for _, name := range names {
				if strings.Contains(before, name) || !strings.Contains(behind, name) {
					t.Errorf("%q stands before %q, or nowhere", name, place)
				}
			}
		}
	}
}

// What is included twice holds nothing: each has its own, and one would not know what the
// other keeps. Constants are in capitals.
func TestIncludesShareNoState(t *testing.T) {
	for _, s := range scripts {
		seen := map[string]bool{}
		for _, name := range []string{"prelude", "record", "moves", "line", "share", "dead", "outcome", "clocks", "intake", "redrive"} {
			for _, u := range luaFile(name).units {
				if strings.Count("\n"+s.source, "\n"+u.text) > 1 && !strings.HasPrefix(u.text, "local function ") && strings.ToUpper(u.names[0]) != u.names[0] {
					seen[u.names[0]] = true
				}
			}
		}
		if len(seen) > 0 {
			t.Errorf("%s has more than once: %v", s.sha, seen)
		}
	}
}

// A text wants what it names, but not what it declares or takes as a parameter.
func TestWhatATextWants(t *testing.T) {
	for text, want := range map[string]string{
		"local function f(a)\n  return a + b\nend\n":                        "b end function local return",
		"local function f(a) return a + b end\nf(a)\n":                      "a b end function local return",
		"local function f(a)\n  if a then\n    g()\n  end\nend\nprint(a)\n": "a end function g if local print then",
		"local x, y = z, 1\nw = function(x) return q end\n":                 "1 end function local q return z",
		"say('text', r.member, v[1].other) -- a note\n":                     "1 r say v",
	} {
		if got := strings.Join(wanted(text), " "); got != want {
			t.Errorf("%q wants %q, not %q", text, got, want)
		}
	}
}

// What is left out depends on every shared name being declared from the start of a
// line, once, and on those files doing nothing else.
func TestSharedFilesOnlyDeclare(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"prelude", "record", "moves", "line", "share", "dead", "outcome", "intake", "redrive"} {
		f := luaFile(name)
		text := ""
		for _, u := range f.units {
			text += u.text
			for _, n := range u.names {
				if other := seen[n]; other != "" && !strings.HasPrefix(u.text, n+" = function") {
					t.Errorf("%s.lua and %s.lua both declare %s", other, name, n)
				}
				seen[n] = name
			}
		}
		if text != strings.TrimLeft(f.text, "\n") {
			t.Errorf("%s.lua begins with %q, which is no declaration", name, f.text[:min(len(f.text), 60)])
		}
		declares := regexp.MustCompile(`^($|\s|local |end|}|\w+ = function)`)
		for i, line := range strings.Split(f.text, "\n") {
			if !declares.MatchString(line) {
				t.Errorf("%s.lua does something by itself: %s", name, fmt.Sprint(i+1, ": ", line))
			}
		}
	}
}
