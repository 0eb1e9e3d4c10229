package command

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	longestLine = 4 << 10 // of standard error, in the log; the rest of a longer one is left out
	longestTail = 900     // bytes of standard error in an error, of which Redis keeps 1024 in all
)

// reply gathers standard output. What goes beyond its limit is read and dropped:
// the program is about to be stopped.
type reply struct {
	limit    int
	tooLarge chan struct{} // closed by Write, once
	once     sync.Once

	mu  sync.Mutex // guards got
	got []byte
}

func newReply(limit int) *reply { return &reply{limit: limit, tooLarge: make(chan struct{})} }

func (r *reply) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.got)+len(p) > r.limit {
		r.once.Do(func() { close(r.tooLarge) })
		r.got = nil
		r.limit = -1
		return len(p), nil
	}
	r.got = append(r.got, p...)
	return len(p), nil
}

func (r *reply) over() bool {
	select {
	case <-r.tooLarge:
		return true
	default:
		return false
	}
}

func (r *reply) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got
}

// tail keeps the last lines of standard error.
type tail struct {
	mu  sync.Mutex // guards got
	got []byte
}

func (t *tail) add(line []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.got = append(append(t.got, line...), '\n')
	if more := len(t.got) - longestTail - 1; more > 0 {
		t.got = append(t.got[:0], t.got[more:]...)
	}
}

// text begins with a whole line, unless there is but one.
func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	end := bytes.TrimRight(t.got, "\n")
	if len(t.got) > longestTail {
		if _, whole, ok := bytes.Cut(end, []byte("\n")); ok {
			end = whole
		}
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(end), ""))
}

// lines calls each with every line until from ends, without its line feed; of a
// line above most bytes with the beginning, and cut is true. line is only valid
// until each returns.
func lines(from io.Reader, most int, each func(line []byte, cut bool)) {
	r := bufio.NewReader(from)
	var line []byte
	began, cut := false, false
	for {
		part, err := r.ReadSlice('\n')
		began = began || len(part) > 0
		text, ended := bytes.CutSuffix(part, []byte("\n"))
		room := max(0, most-len(line))
		cut = cut || len(text) > room
		line = append(line, text[:min(room, len(text))]...)
		if ended || err != nil && !errors.Is(err, bufio.ErrBufferFull) && began {
			each(line, cut)
			line, began, cut = line[:0], false, false
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// patient reads a stream to its end, but once it is told to hurry no longer than
// somebody goes on writing: what is in the pipe already is not lost, whoever
// holds it open without a word is not waited for.
type patient struct {
	file *os.File

	mu      sync.Mutex // guards hurried and ended, and with them the deadline
	hurried bool
	ended   bool
}

func (p *patient) Read(b []byte) (int, error) {
	p.mu.Lock()
	if p.hurried && !p.ended {
		_ = p.file.SetReadDeadline(time.Now().Add(lingers))
	}
	p.mu.Unlock()
	return p.file.Read(b)
}

// hurry lets reads end after a pause of the writer.
func (p *patient) hurry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hurried = true
	_ = p.file.SetReadDeadline(time.Now().Add(lingers))
}

// cut ends all reads now.
func (p *patient) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	_ = p.file.SetReadDeadline(time.Now())
}
