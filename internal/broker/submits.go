package broker

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

var (
	submitScript = newScript("submit", "intake")
	directScript = scriptOf("prelude", "record", "moves", "clocks", "direct")
)

// submits are calls that one script takes together, all of one partition.
type submits struct {
	script *script
	calls  []*call[*submission, []string]
	kinds  []*kind // of those that may go straight to the stream
}

// kind is what direct.lua does once for all that have it in common.
type kind struct {
	kindKey
	calls []*call[*submission, []string]
}

type kindKey struct {
	service, plan, tenant, contentType, headers, waiter string
	register                                            bool
}

// groupSubmits has one script a partition take all submits that may go straight to the
// stream, and one all others but scatters, each of which has its own.
func groupSubmits(calls []*call[*submission, []string]) (together []*submits) {
	type home struct {
		partition
		*script
	}
	homes, kinds := make(map[home]*submits, 1), make(map[partition]map[kindKey]*kind, 1)
	var plan planNumbers
	var text string // of plan: that of most is that of the one before
	for _, c := range calls {
		at := home{c.ask.at, c.ask.script()}
		t := homes[at]
		if t == nil || at.script == scatterScript {
			t = &submits{script: at.script}
			homes[at], together = t, append(together, t)
		}
		if at.script != directScript {
			t.calls = append(t.calls, c)
			continue
		}
		if kinds[at.partition] == nil {
			kinds[at.partition] = make(map[kindKey]*kind, 1)
		}
		if n := c.ask.planNumbers(); n != plan {
			plan, text = n, n.String()
		}
		key := c.ask.kind(text)
		k := kinds[at.partition][key]
		if k == nil {
			k = &kind{kindKey: key}
			kinds[at.partition][key], t.kinds = k, append(t.kinds, k)
		}
		k.calls = append(k.calls, c)
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
	case s.left || s.policy != "" || s.sharing != "" || s.Batch != nil || s.Delay >= time.Millisecond || s.plan.Concurrency > 0 || !s.until.IsZero():
		return submitScript
	}
	return directScript
}

func (s *submission) kind(plan string) kindKey {
	return kindKey{s.Service, plan, tenantText(s.Tenant), s.ContentType, s.headers, s.waiter, s.register}
}

// command is what the script is called with.
func (t *submits) command() (p partition, keys []string, args []any) {
	first := t.calls[0].ask
	p = first.at
	if t.script == scatterScript {
		keys, args = first.scatterCommand()
		return p, keys, args
	}
	args = append(make([]any, 0, 1+9*len(t.kinds)+8*len(t.calls)), p.prefix())
	for _, k := range t.kinds {
		args = append(args, k.service, k.plan, k.tenant, flag(k.register), k.contentType, k.headers, k.waiter, len(k.calls))
		for _, c := range k.calls {
			options := c.ask.options()
			args = append(append(args, c.ask.id.String(), c.ask.nonce, c.ask.Body, len(options)/2), options...)
		}
	}
	if t.script == submitScript {
		for _, c := range t.calls {
			s := c.ask
			options := append(s.options(), s.rareOptions()...)
			args = append(append(args, s.id.String(), s.nonce, s.Service, s.planNumbers().String(), s.ContentType, s.headers, s.Body, len(options)/2), options...)
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

// answer is what the script said of the call i; nil where it leaves that to submit.lua.
func (t *submits) answer(raw any, i int) ([]string, error) {
	if t.script == scatterScript {
		return texts(raw), nil
	}
	list, _ := raw.([]any)
	if t.script == directScript {
		if len(list) < 2*i+3 {
			return nil, fmt.Errorf("the script answered %d of %d submits", len(list)/2, len(t.calls))
		}
		v := texts(list[2*i+1 : 2*i+3])
		if v[0] == "" {
			return nil, nil
		}
		return []string{"accepted", list[0].(string), v[0], v[1], string(Queued), ""}, nil
	}
	if i >= len(list) {
		return nil, fmt.Errorf("the script answered %d of %d submits", len(list), len(t.calls))
	}
	answer := texts(list[i])
	if answer[0] == "error" {
		return nil, scriptError(answer[1])
	}
	return answer, nil
}

// scriptError is what stopped a script before its end, in Redis' words.
type scriptError string

func (e scriptError) Error() string { return string(e) }
