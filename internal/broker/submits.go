package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

var submitScript = newScript("submit", "intake")

// submits are calls that one script takes together, all of one partition.
type submits struct {
	home   partition
	script *script
	calls  []*call[*submission, verdict]
	kinds  []*kind // of those for direct.lua
}

// groupSubmits has one script a partition take all submits that nothing but their place in
// the line may hold back, and one all others but scatters, each of which has its own.
func groupSubmits(calls []*call[*submission, verdict]) (together []*submits) {
	of := func(s *submission, script *script) *submits {
		at := slices.IndexFunc(together, func(t *submits) bool { return t.home == s.at && t.script == script })
		if at < 0 || script == scatterScript {
			at, together = len(together), append(together, &submits{home: s.at, script: script})
		}
		return together[at]
	}
	for _, c := range calls {
		script := c.ask.script()
		if script == directScript {
			if of(c.ask, script).takes(c) {
				continue
			}
			script = submitScript
		}
		t := of(c.ask, script)
		t.calls = append(t.calls, c)
	}
	for _, t := range together {
		for _, k := range t.kinds { // in the order in which the script has them
			t.calls = append(t.calls, k.calls...)
		}
	}
	return together
}

// script is what a submission is given to.
func (s *submission) script() *script {
	switch {
	case s.scatter != nil:
		return scatterScript
	case s.left || s.OrderingKey != "" || s.ConcurrencyKey != "" || s.sharing != "" || s.Batch != nil || s.Delay >= time.Millisecond || !s.until.IsZero():
		return submitScript
	}
	return directScript
}

// command is what the script is called with.
func (t *submits) command() (p partition, keys []string, args []any) {
	first := t.calls[0].ask
	p = first.at
	if t.script == scatterScript {
		keys, args = first.scatterCommand()
		return p, keys, args
	}
	args = append(make([]any, 0, 1+12*len(t.kinds)+8*len(t.calls)), p.prefix())
	for _, k := range t.kinds {
		args = k.appendTo(args)
	}
	if t.script == submitScript {
		for _, c := range t.calls {
			s := c.ask
			options := append(s.options(), s.rareOptions()...)
			args = append(append(args, s.name, s.nonce, s.Service, s.planNumbers().String(), s.ContentType, s.headers, s.Body, len(options)/2), options...)
		}
	}
	return p, []string{p.due()}, args
}

// options are what submit.lua and direct.lua take by name.
func (s *submission) options() (options []any) {
	url, events := s.callback()
	if events == "-" {
		events = ""
	}
	return named("trace", s.Traceparent, "tags", strings.Join(s.Tags, " "), "idem", s.binding, "fingerprint", s.fingerprint,
		"callback", url, "events", events)
}

// rareOptions are what submit.lua alone takes by name.
func (s *submission) rareOptions() []any {
	options := named("tenant", tenantText(s.Tenant), "policy", s.policy, "sharing", s.sharing, "waiter", s.waiter)
	if ms := s.Delay.Milliseconds(); ms > 0 {
		options = append(options, "delay", ms)
	}
	if !s.until.IsZero() {
		options = append(options, "moves", s.until.UnixMilli())
	}
	if s.register {
		options = append(options, "register", 1)
	}
	if s.Batch != nil {
		options = append(options, "batch", s.Batch.Batch.String(), "item", s.Batch.number(), "ends", s.Batch.Ends.UnixMilli())
	}
	return options
}

// named leaves out the pairs of name and value that say nothing.
func named(pairs ...string) (options []any) {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			options = append(options, pairs[i], pairs[i+1])
		}
	}
	return options
}

// planNumbers are the plan in the order in which the scripts read it; times are in ms.
type planNumbers [9]int64

func (s *submission) planNumbers() planNumbers {
	return planNumbers{
		s.plan.Timeout.Milliseconds(), s.plan.StartTimeout.Milliseconds(), s.plan.RunTimeout.Milliseconds(), s.plan.Lease.Milliseconds(),
		int64(s.plan.MaxAttempts), s.plan.Retention.Milliseconds(), s.plan.Backoff.Milliseconds(), int64(s.plan.MaxQueued), int64(s.plan.Concurrency),
	}
}

func (p planNumbers) String() string {
	text := make([]byte, 0, 64)
	for _, n := range p {
		text = append(strconv.AppendInt(text, n, 10), ' ')
	}
	return string(text[:len(text)-1])
}

// callback is where and of what it is told, as the record has it.
func (s *submission) callback() (url, events string) {
	events = "-"
	if s.Callback != nil {
		url, events = s.Callback.URL, eventLetters(s.Callback.Events)
	}
	if s.Minimal {
		events += "m"
	}
	return url, events
}

// verdict is what a script says of a submission: a word, and what belongs to it.
type verdict [6]string

func verdictOf(raw any) (v verdict) {
	copy(v[:], texts(raw))
	return v
}

// read has each call have what the script said of it; zero where it leaves that to
// submit.lua.
func (t *submits) read(raw any) {
	switch t.script {
	case scatterScript:
		t.calls[0].answer = verdictOf(raw)
	case directScript:
		t.readDirect(raw)
	default:
		list, _ := raw.([]any)
		for i, c := range t.calls {
			if i >= len(list) {
				c.err = fmt.Errorf("the script answered %d of %d submits", len(list), len(t.calls))
			} else if v := verdictOf(list[i]); v[0] == "error" {
				c.err = scriptError(v[1])
			} else {
				c.answer = v
			}
		}
	}
}

// scriptError is what stopped a script before its end, in Redis' words.
type scriptError string

func (e scriptError) Error() string { return string(e) }

// unwritten tells that it was stopped by its first write: what Redis says of any write is
// not said any more to a script that has written.
func (e scriptError) unwritten() bool {
	code, _, _ := strings.Cut(string(e), " ")
	return code == "READONLY" || code == "NOREPLICAS" || code == "MISCONF"
}
