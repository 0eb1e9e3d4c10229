package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	submitScript = newScript("submit", "intake")
	directScript = scriptOf("prelude", "record", "moves", "line", "clocks", "direct")
)

// submits are calls that one script takes together, all of one partition.
type submits struct {
	home   partition
	script *script
	calls  []*call[*submission, verdict]
	kinds  []*kind // of those for direct.lua
}

// kind is what direct.lua does once for all that have it in common.
type kind struct {
	kindKey
	calls []*call[*submission, verdict]
}

type kindKey struct {
	service, plan, tenant, policy, contentType, headers, waiter string
	register                                                    bool
}

// groupSubmits has one script a partition take all submits that nothing but their place in
// the line may hold back, and one all others but scatters, each of which has its own.
func groupSubmits(calls []*call[*submission, verdict]) (together []*submits) {
	var plan planNumbers
	var text string // of plan: that of most is that of the one before
	for _, c := range calls {
		script := c.ask.script()
		at := slices.IndexFunc(together, func(t *submits) bool { return t.home == c.ask.at && t.script == script })
		if at < 0 || script == scatterScript {
			at, together = len(together), append(together, &submits{home: c.ask.at, script: script})
		}
		t := together[at]
		if script != directScript {
			t.calls = append(t.calls, c)
			continue
		}
		if n := c.ask.planNumbers(); n != plan {
			plan, text = n, n.String()
		}
		key := c.ask.kind(text)
		of := slices.IndexFunc(t.kinds, func(k *kind) bool { return k.kindKey == key })
		if of < 0 {
			of, t.kinds = len(t.kinds), append(t.kinds, &kind{kindKey: key})
		}
		t.kinds[of].calls = append(t.kinds[of].calls, c)
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

func (s *submission) kind(plan string) kindKey {
	return kindKey{s.Service, plan, tenantText(s.Tenant), s.policy, s.ContentType, s.headers, s.waiter, s.register}
}

// payload is bytes as an argument: behind a pointer, like the texts beside it, they need
// no piece of memory of their own to be one.
type payload []byte

func (p *payload) MarshalBinary() ([]byte, error) { return *p, nil }

// command is what the script is called with.
func (t *submits) command() (p partition, keys []string, args []any) {
	first := t.calls[0].ask
	p = first.at
	if t.script == scatterScript {
		keys, args = first.scatterCommand()
		return p, keys, args
	}
	args = append(make([]any, 0, 1+10*len(t.kinds)+8*len(t.calls)), p.prefix())
	for _, k := range t.kinds {
		args = append(args, &k.service, &k.plan, &k.tenant, flag(k.register), &k.policy, &k.contentType, &k.headers, &k.waiter, len(k.calls))
		for _, c := range k.calls {
			options := c.ask.options()
			args = append(append(args, &c.ask.name, &c.ask.nonce, (*payload)(&c.ask.Body), len(options)/2), options...)
		}
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

// answer is what the script said of the call i; zero where it leaves that to submit.lua.
func (t *submits) answer(raw any, i int) (verdict, error) {
	if t.script == scatterScript {
		return verdictOf(raw), nil
	}
	list, _ := raw.([]any)
	if t.script == directScript {
		if len(list) < 2*i+3 {
			return verdict{}, fmt.Errorf("the script answered %d of %d submits", len(list)/2, len(t.calls))
		}
		entry, ordinal := text(list[2*i+1]), text(list[2*i+2])
		switch entry {
		case "":
			return verdict{}, nil
		case "full":
			return verdict{entry}, nil
		case "-":
			entry = ""
		}
		return verdict{"accepted", text(list[0]), entry, ordinal, string(Queued)}, nil
	}
	if i >= len(list) {
		return verdict{}, fmt.Errorf("the script answered %d of %d submits", len(list), len(t.calls))
	}
	v := verdictOf(list[i])
	if v[0] == "error" {
		return verdict{}, scriptError(v[1])
	}
	return v, nil
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
