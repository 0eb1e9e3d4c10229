package inbox

import (
	"slices"
	"strings"
	"sync"
)

// box holds all inboxes.
type box struct {
	secrets []string

	mu     sync.Mutex // guards the rest
	kept   []entry    // oldest first
	bytes  int
	failed map[string]int // "<name> <event>" → planned failures so far
	events []string       // the keys of failed, oldest first
}

type entry struct {
	name    string
	attempt Attempt
	size    int
}

// keep stores an attempt, and lets the oldest go that are above a bound.
func (b *box) keep(name string, a Attempt) {
	e := entry{name, a, len(a.Body)}
	for k, v := range a.Headers {
		e.size += len(k) + len(v)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = append(b.kept, e)
	b.bytes += e.size
	if b.count(name) > maxKept {
		b.drop(slices.IndexFunc(b.kept, func(o entry) bool { return o.name == name }))
	}
	if stale := b.staleName(); stale != "" {
		b.dropName(stale)
	}
	for b.bytes > maxBytes {
		b.drop(0)
	}
}

func (b *box) count(name string) (n int) {
	for _, e := range b.kept {
		if e.name == name {
			n++
		}
	}
	return n
}

// staleName is the name that was used longest ago, where there are too many.
func (b *box) staleName() string {
	seen, oldest := map[string]bool{}, ""
	for _, e := range slices.Backward(b.kept) {
		if !seen[e.name] {
			seen[e.name], oldest = true, e.name
		}
	}
	if len(seen) <= maxNames {
		return ""
	}
	return oldest
}

func (b *box) drop(i int) {
	b.bytes -= b.kept[i].size
	b.kept = slices.Delete(b.kept, i, i+1)
}

func (b *box) dropName(name string) {
	b.kept = slices.DeleteFunc(b.kept, func(e entry) bool {
		if e.name == name {
			b.bytes -= e.size
		}
		return e.name == name
	})
}

// of lists what is kept of a name, newest first; never nil.
func (b *box) of(name string) []Attempt {
	b.mu.Lock()
	defer b.mu.Unlock()
	attempts := []Attempt{}
	for _, e := range slices.Backward(b.kept) {
		if e.name == name {
			attempts = append(attempts, e.attempt)
		}
	}
	return attempts
}

func (b *box) forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropName(name)
	prefix := name + " "
	b.events = slices.DeleteFunc(b.events, func(key string) bool {
		mine := strings.HasPrefix(key, prefix)
		if mine {
			delete(b.failed, key)
		}
		return mine
	})
}

// fails tells whether this attempt at an event is one that is to fail, and
// counts it.
func (b *box) fails(key string, p plan) bool {
	if p.times == 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n, known := b.failed[key]
	if n >= p.times {
		return false
	}
	if !known {
		b.events = append(b.events, key)
		if len(b.events) > maxRemember {
			delete(b.failed, b.events[0])
			b.events = slices.Delete(b.events, 0, 1)
		}
	}
	b.failed[key] = n + 1
	return true
}
