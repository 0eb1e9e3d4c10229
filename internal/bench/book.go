package bench

import "sync"

// book says of every request what became of it. Whoever sees something tells
// it; what was accepted and never answered is found at the end.
type book struct {
	mu     sync.Mutex // guards all
	states []state    // by number
	ids    map[string]struct{}
	counts Counts
}

type state uint8

const (
	sent     state = iota // and what became of it is unknown
	refused               // it is known that nothing will run
	accepted              // by a 202
	answered              // by its outcome, seen once
)

func newBook() *book { return &book{ids: map[string]struct{}{}} }

// send begins the next request.
func (b *book) send() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.states = append(b.states, sent)
	b.counts.Sent++
	return len(b.states) - 1
}

// refuse says that nothing was accepted.
func (b *book) refuse(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.states[n] == sent {
		b.states[n] = refused
	}
}

// accept notes a 202. An ID that another request has already is as bad as a
// reply that comes twice.
func (b *book) accept(n int, id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, taken := b.ids[id]; taken {
		b.counts.Doubled++
	}
	b.ids[id] = struct{}{}
	b.counts.Accepted++
	if b.states[n] == sent { // a callback may come before its 202
		b.states[n] = accepted
	}
}

// answer notes the outcome that somebody saw of request n.
func (b *book) answer(n int, v verdict) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n >= len(b.states) {
		b.counts.Wrong++ // an answer to nothing
		return
	}
	switch {
	case b.states[n] == answered:
		b.counts.Doubled++
		return
	case v == wrongReply:
		b.counts.Wrong++
	case v == noSuccess:
		b.counts.Failed++
	}
	b.states[n] = answered
	b.counts.Answered++
}

// misorder notes something that came before what it must follow, or after what
// it must precede.
func (b *book) misorder() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts.OutOfOrder++
}

// close counts what was accepted and has no answer.
func (b *book) close() (c Counts, open int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.states {
		if s == accepted {
			open++
		}
	}
	return b.counts, open
}

// now is what is known so far.
func (b *book) now() Counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts
}
