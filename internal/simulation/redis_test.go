package simulation_test

import (
	"bufio"
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2/server"

	"github.com/coatcheck/coatcheck/internal/quickredis"
)

// store is the Redis of all seeds of a process, one after the other: the real scripts
// on an embedded Redis, whose commands run when the world says so, in its goroutine.
type store struct {
	*quickredis.Redis
	plant *plant // nil for none

	mu        sync.Mutex // guards the rest
	peer      *server.Peer
	out       *bufio.Writer
	answer    bytes.Buffer
	verbs     map[string]string // script by its digest
	sources   map[string]string // of scripts that a bug is planted in, by digest
	touched   map[string]bool   // keys of commands since the world looked
	published [][2]string       // channel and message, since the world looked
}

const nothing = "*-1\r\n" // no data

// newStore makes a Redis that lasts for all seeds. It must be made outside a bubble.
func newStore(p *plant) (*store, error) {
	s := &store{Redis: quickredis.New(), plant: p, verbs: map[string]string{}, sources: map[string]string{}, touched: map[string]bool{}}
	first, err := s.Dial() // so that there is a server
	if err != nil {
		return nil, err
	}
	first.Close()
	s.out = bufio.NewWriter(&s.answer)
	s.peer = server.NewPeer(s.out)
	s.Hook(func(_ *server.Peer, name string, args ...string) bool {
		switch name {
		case "PUBLISH":
			s.published = append(s.published, [2]string{args[0], args[1]})
			return false
		case "EVALSHA", "EVAL", "SCRIPT":
			return false
		case "MSET":
			for i := 0; i < len(args); i += 2 {
				s.touched[args[i]] = true
			}
			return false
		}
		if len(args) > 0 {
			s.touched[args[0]] = true
		}
		return false
	})
	return s, nil
}

// run runs a command, and returns the answer as Redis writes it.
func (s *store) run(words []string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := strings.ToUpper(words[0])
	if name == "EVALSHA" && s.sources[words[1]] != "" {
		words = append([]string{"EVAL", s.sources[words[1]]}, words[2:]...)
	}
	s.answer.Reset()
	s.Server().Dispatch(s.peer, words)
	s.peer.Flush()
	answer := bytes.Clone(s.answer.Bytes())
	if name == "SCRIPT" && strings.EqualFold(words[1], "LOAD") {
		sha := strings.TrimSpace(strings.SplitAfter(string(answer), "\n")[1])
		s.verbs[sha] = verbOf(words[2])
		if s.plant != nil {
			if bad := strings.Replace(words[2], s.plant.good, s.plant.bad, 1); bad != words[2] {
				s.sources[sha] = bad
			}
		}
	}
	return answer
}

// claims gives a worker the next entry of a queue, if any.
func (s *store) claims(worker, queue string) []byte {
	answer := s.run([]string{"XREADGROUP", "GROUP", "workers", worker, "COUNT", "1", "STREAMS", queue, ">"})
	if s.plant != nil && s.plant.acks && string(answer) != nothing {
		entry := list(answer)[1]
		s.run([]string{"XACK", queue, "workers", entry})
		s.run([]string{"XDEL", queue, entry})
	}
	return answer
}

// command tells what a command is.
func (s *store) command(words []string) command {
	label := strings.ToLower(words[0])
	if label == "evalsha" {
		s.mu.Lock()
		defer s.mu.Unlock()
		label = s.verbs[words[1]] + ".lua"
	}
	return command{words: words, label: label}
}

// verbOf is the file that a script is of: it ends with what that says.
func verbOf(source string) string {
	for name, text := range luaFiles() {
		if strings.HasSuffix(source, text) {
			return name
		}
	}
	return "unknown"
}

var (
	luaTexts map[string]string
	comments = regexp.MustCompile(`(?m)^\s*--.*\n`)
)

func luaFiles() map[string]string {
	if luaTexts == nil {
		luaTexts = map[string]string{}
		files, _ := filepath.Glob("../broker/lua/*.lua")
		for _, f := range files {
			raw, _ := os.ReadFile(f)
			text := comments.ReplaceAllString(string(raw), "")
			if look := strings.Index(text, "\nend\n"); strings.HasPrefix(text, "do\n") { // that stands before all else
				text = text[look+5:]
			}
			if in := strings.LastIndex(text, "include('"); in >= 0 { // another file stands there
				text = text[in:]
				text = text[strings.Index(text, "\n"):]
			}
			luaTexts[strings.TrimSuffix(filepath.Base(f), ".lua")] = text
		}
	}
	return luaTexts
}

// blocks tells for how long a command waits for data.
func blocks(words []string) (time.Duration, bool) {
	for i, word := range words {
		if i > 0 && strings.EqualFold(word, "block") && strings.HasPrefix(strings.ToUpper(words[0]), "XREAD") {
			ms, err := strconv.Atoi(words[i+1])
			return time.Duration(ms) * time.Millisecond, err == nil
		}
	}
	return 0, false
}

// unblocked is a command that waits for data as one that does not.
func unblocked(words []string) []string {
	for i, word := range words {
		if strings.EqualFold(word, "block") {
			return slices.Concat(words[:i], words[i+2:])
		}
	}
	return words
}

func subscribed(channels []string) (answer []byte) {
	for i, c := range channels {
		answer = fmt.Appendf(answer, "*3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:%d\r\n", len(c), c, i+1)
	}
	return answer
}

func message(channel, text string) []byte {
	return fmt.Appendf(nil, "*3\r\n$7\r\nmessage\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(channel), channel, len(text), text)
}

// readCommand reads what a client sends: an array of strings. ok is false where it is
// not complete.
func readCommand(b []byte) (words []string, rest []byte, ok bool) {
	n, b, ok := readLength(b, '*')
	for range n {
		size, after, whole := readLength(b, '$')
		if !whole || len(after) < size+2 {
			return nil, nil, false
		}
		words, b = append(words, string(after[:size])), after[size+2:]
	}
	return words, b, ok && n > 0
}

func readLength(b []byte, kind byte) (n int, rest []byte, ok bool) {
	end := bytes.IndexByte(b, '\n')
	if end < 3 || b[0] != kind {
		return 0, nil, false
	}
	n, err := strconv.Atoi(string(b[1 : end-1]))
	return n, b[end+1:], err == nil
}

// list reads an answer that is an array of strings, however deep.
func list(answer []byte) (flat []string) {
	for len(answer) > 0 {
		end := bytes.IndexByte(answer, '\n')
		head, rest := string(answer[:end-1]), answer[end+1:]
		switch head[0] {
		case '$':
			n, _ := strconv.Atoi(head[1:])
			if n < 0 {
				flat, answer = append(flat, ""), rest
				continue
			}
			flat, answer = append(flat, string(rest[:n])), rest[n+2:]
		case '*':
			answer = rest
		default:
			flat, answer = append(flat, head[1:]), rest
		}
	}
	return flat
}

// parse reads a key: the prefix of its partition, what it is, and of what. kind is ""
// for a key of no partition.
func parse(key string) (at, kind, name string) {
	end := strings.Index(key, "}:")
	if end < 0 {
		return "", "", ""
	}
	kind, name, _ = strings.Cut(key[end+2:], ":")
	return key[:end+2], kind, name
}

// news is what happened since it was asked last.
func (s *store) news() (touched map[string]bool, published [][2]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	touched, published = s.touched, s.published
	s.touched, s.published = map[string]bool{}, nil
	return touched, published
}

// mark tells one answer from another.
func (s *store) mark() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return crc32.ChecksumIEEE(s.answer.Bytes())
}

// clear forgets all data for the next seed; the scripts stay.
func (s *store) clear() {
	s.FlushAll()
	s.news()
}
