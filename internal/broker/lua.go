package broker

import (
	"embed"
	"regexp"
	"slices"
	"strings"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// A script begins anew at each call: Redis makes every function that stands before
// the verb, whether or not that needs it, and with all of them they cost more than
// most verbs do. So a script has of the files that several share no more than it needs.
// These declare and do nothing else: "local function name", "local name = …", and
// "name = function" for what was declared before, each from the start of a line.

// unit is one declaration of a Lua file.
type unit struct {
	names []string // declared
	words []string // of the rest: what it may need, and what only looks like it
	text  string
}

// file is a Lua file without its comments.
type file struct {
	text  string
	units []unit
}

var (
	luaRead     = map[string]*file{} // each is read once, before main
	comments    = regexp.MustCompile(`(?m)^\s*--.*\n`)
	including   = regexp.MustCompile(`include\('(\w+)'\)`)
	notNames    = regexp.MustCompile(`'[^'\n]*'|--.*`)  // literals and comments at the end of a line
	members     = regexp.MustCompile(`([\w\])])\.\w+`)  // of a table
	keys        = regexp.MustCompile(`([{,]\s*)\w+ = `) // of one that is made
	declaration = regexp.MustCompile(`(?m)^(?:local function (\w+)|local ([\w, ]+)|(\w+) = function)`)
	function    = regexp.MustCompile(`(?m)^(?:local function \w+|\w+ = function)\(([\w, ]*)(?:.*end$|(?s:.*?)^end$)`)
)

func luaFile(name string) *file {
	if f := luaRead[name]; f != nil {
		return f
	}
	source, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic("broker: " + err.Error()) // embedded: can't be missing in a binary that was built
	}
	f := &file{text: comments.ReplaceAllString(string(source), "")}
	found := declaration.FindAllStringSubmatchIndex(f.text, -1)
	for i, at := range found {
		end := len(f.text)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		u := unit{text: f.text[at[0]:end]}
		u.names, u.words = declared(u.text), wanted(u.text)
		f.units = append(f.units, u)
	}
	luaRead[name] = f
	return f
}

// declared are the names that a text declares.
func declared(text string) (names []string) {
	for _, found := range declaration.FindAllStringSubmatch(text, -1) {
		names = append(names, words(strings.Join(found[1:], " "))...)
	}
	return names
}

// wanted are the words of a text that may be names declared before it: neither its own
// nor, within a function, those of the parameters of that.
func wanted(text string) []string {
	own := declared(text)
	var all []string
	rest := function.ReplaceAllStringFunc(text, func(f string) string {
		parameters := words(function.FindStringSubmatch(f)[1])
		all = append(all, slices.DeleteFunc(words(f), func(w string) bool { return slices.Contains(parameters, w) })...)
		return ""
	})
	all = slices.DeleteFunc(append(all, words(rest)...), func(w string) bool { return slices.Contains(own, w) })
	slices.Sort(all)
	return slices.Compact(all)
}

// words are those of a text of Lua that may be names of its own, each once.
func words(text string) []string {
	text = notNames.ReplaceAllString(text, " ")
	text = members.ReplaceAllString(keys.ReplaceAllString(text, "$1 "), "$1 ")
	all := strings.FieldsFunc(text, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
	slices.Sort(all)
	return slices.Compact(all)
}

// needed is verb behind the declarations of files that it needs, in their order. What
// verb includes, "include('name')", stands there behind what that needs besides: so it
// is made only when Redis comes to it, and so on for what is included there. Each include
// has its own of that, since Redis may come to one alone: what is to be the same for two of
// them is to be wanted by verb.
func needed(files []string, verb string) string {
	var units []unit
	places := map[string][]int{} // name → in units
	for _, name := range files {
		for _, u := range luaFile(name).units {
			for _, n := range u.names {
				places[n] = append(places[n], len(units))
			}
			units = append(units, u)
		}
	}
	behind := func(text string, before []bool) (string, []bool) {
		kept := slices.Clone(before)
		for queue := wanted(text); len(queue) > 0; queue = queue[1:] {
			for _, i := range places[queue[0]] {
				if !kept[i] {
					kept[i] = true
					queue = append(queue, units[i].words...)
				}
			}
		}
		var source strings.Builder
		for i, u := range units {
			if kept[i] && !before[i] {
				source.WriteString(u.text)
			}
		}
		return source.String() + text, kept
	}
	var whole func(text string, before []bool) string
	whole = func(text string, before []bool) string {
		source, kept := behind(text, before)
		return including.ReplaceAllStringFunc(source, func(call string) string {
			return whole(luaFile(including.FindStringSubmatch(call)[1]).text, kept)
		})
	}
	return whole(verb, make([]bool, len(units)))
}
