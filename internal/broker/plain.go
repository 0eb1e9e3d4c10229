package broker

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// Most replies are plain: the final one to the first attempt of a request that is on its
// stream by itself, and of which nothing was heard before. What becomes of those is made
// out here, from the reply and the record as they were read, and succeed.lua stores it where
// both are so still. All others are left to settle.lua.

// plainReply is a reply that may be plain.
type plainReply struct {
	entry, id, nonce, body string
	of                     correlation.ID
	plainRequest
	plainKind
	outcome *Outcome // once it is stored
}

// plainRequest is what its record says.
type plainRequest struct {
	service, work string // and its entry on the stream of that
	ms, seq       uint64 // of that entry
	record        string
	first         int    // bytes of the first line of the record
	plan          string // in that line, to its end
	left          string // lines that stay, each behind a line break
	created, idem string
	url           string // of the callback that it is owed; "" for none
	trace         string
	policy, tags  string
	here, told    bool // somebody waits for it in this process, and is told of the outcome
}

// plainKind is what many have in common, as succeed.lua takes it.
type plainKind struct {
	tenant, timeout, start, run, retention string
	rtype, rstatus, rheaders               string
	owes                                   string // hand, owe or ""
	waiters                                string // other gateways
	due                                    bool
}

const (
	owesHand = "hand" // its callback to this process
	owesLate = "owe"  // to whoever delivers it

	mostHanded       = 4096 // bytes of a reply whose callback this process delivers at once
	mostReplyHeaders = 8192 // bytes of the headers of a reply: MAX_REPLY_HEADERS in prelude.lua, which drops larger ones
)

// plainOf reads a reply. id is whose it is, as far as that can be read; the reply is nil
// where it is not plain.
func (b *Broker) plainOf(m redis.XMessage) (r *plainReply, id string) {
	field := func(name string) string {
		value, _ := m.Values[name].(string)
		return value
	}
	token := field("token")
	id = token[:min(len(token), 36)]
	known := 0
	for _, name := range [...]string{"token", "type", "content_type", "body", "status_code", "headers"} {
		if _, there := m.Values[name]; there {
			known++
		}
	}
	if seq, there := m.Values["seq"]; there && seq == "1" {
		known++
	}
	nonce, first := strings.CutPrefix(token[len(id):], ".1.")
	of, err := correlation.Parse(id)
	if err != nil || !first || known < len(m.Values) || field("type") != "final" {
		return nil, id
	}
	r = &plainReply{entry: m.ID, id: id, nonce: nonce, body: field("body"), of: of}
	r.rtype, r.rstatus, r.rheaders = field("content_type"), field("status_code"), field("headers")
	if len(r.body) > b.options.MaxReply || len(r.rtype) > 255 || strings.IndexFunc(r.rtype, isControl) >= 0 {
		return nil, id
	}
	if s := r.rstatus; s != "" && (len(s) != 3 || !isDecimal(s) || s < "200" || s > "599") {
		return nil, id
	}
	if len(r.rheaders) > mostReplyHeaders || strings.Contains(r.rheaders, "\n") { // which no line of a brief record can have
		return nil, id
	}
	return r, id
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func isDecimal(text string) bool {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return text != "" && len(text) <= 15
}

// The places of what the first line of the record of a queued request has, see record.lua.
const (
	lineService = iota
	lineNonce
	lineEntry
	lineCreated // the plan, from here on
	lineTimeout
	lineStart
	lineRun
	lineLease
	lineMax
	lineRetention
	lineEvents
	lineOrdinal
	lineBackoff
	lineParts // what has succeeded has more
)

// reads takes what the record says. It is false where the request is not plain: it is not
// queued in its first attempt, waits for more than a worker, or its end is another's to tell.
func (r *plainReply) reads(record string, b *Broker) bool {
	first, also := record, ""
	if at := strings.IndexByte(record, '\n'); at >= 0 {
		first, also = record[:at], record[at:]
	}
	var line [lineParts]string
	rest, more := first, true
	for i := range line {
		if !more {
			return false
		}
		if i == lineCreated {
			r.plan = rest
		}
		line[i], rest, more = strings.Cut(rest, " ")
	}
	for _, i := range [...]int{lineCreated, lineTimeout, lineStart, lineRun, lineRetention} {
		if !isDecimal(line[i]) {
			return false
		}
	}
	events := line[lineEvents]
	var ok bool
	if r.ms, r.seq, ok = streamID(line[lineEntry]); !ok || more || line[lineNonce] != r.nonce || strings.Contains(events, "m") {
		return false
	}
	r.service, r.work, r.record, r.first = line[lineService], line[lineEntry], record, len(first)
	r.created, r.timeout, r.start, r.run, r.retention = line[lineCreated], line[lineTimeout], line[lineStart], line[lineRun], line[lineRetention]
	r.due = r.start != "0" || r.run != "0" || !strings.Contains(events, "d")
	if !r.readsMore(also, b) {
		return false
	}
	if strings.Contains(events, "s") && r.url != "" {
		r.owes = owesLate
	}
	return !b.options.Judge.wants(r.service)
}

// readsMore takes the other lines of the record.
func (r *plainReply) readsMore(also string, b *Broker) bool {
	r.left = also
	for also != "" {
		text := also
		if at := strings.IndexByte(also[1:], '\n'); at >= 0 {
			text = also[:1+at]
		}
		also = also[len(text):]
		name, value, _ := strings.Cut(text[1:], " ")
		switch name {
		case "tenant":
			r.tenant = value
		case "idem":
			r.idem = value
		case "callback":
			r.url = value
		case "trace":
			r.trace = value
		case "tags":
			r.tags = value
		case "policy":
			if r.policy = value; !ungated(value) {
				return false
			}
		case "place":
			r.due = true
			r.left = strings.Replace(r.left, text, "", 1)
		case "waiters":
			r.waitedFor(value, b)
			r.left = strings.Replace(r.left, text, "", 1)
		case "":
			return false
		}
	}
	return true
}

// ungated tells whether what holds for a request while it waits has no gate.
func ungated(policy string) bool {
	f := strings.Fields(policy)
	return len(f) >= 3 && f[2] == "-"
}

// waitedFor takes the gateways that are to be woken.
func (r *plainReply) waitedFor(waiters string, b *Broker) {
	for name := range strings.FieldsSeq(waiters) {
		switch own, told := strings.CutPrefix(name, toldSign); {
		case own == b.name:
			r.here, r.told = true, r.told || told
		case r.waiters == "":
			r.waiters = name
		default:
			r.waiters += " " + name
		}
	}
}

// streamID reads the ID of a stream entry.
func streamID(text string) (ms, seq uint64, ok bool) {
	one, other, _ := strings.Cut(text, "-")
	ms, err := strconv.ParseUint(one, 10, 64)
	seq, wrong := strconv.ParseUint(other, 10, 64)
	return ms, seq, err == nil && wrong == nil
}

// plainAmong finds the plain ones among replies, in the order in which succeed.lua takes
// them. Of several to one request only the first may be: the record is as it was before that.
func (b *Broker) plainAmong(ctx context.Context, p partition, replies []redis.XMessage) ([]*plainReply, error) {
	var all []*plainReply
	var keys []string
	seen := map[string]bool{}
	for _, m := range replies {
		r, id := b.plainOf(m)
		if r != nil && !seen[id] {
			all, keys = append(all, r), append(keys, p.record(id))
		}
		seen[id] = true
	}
	if len(all) == 0 || b.noneIsPlain {
		return nil, nil
	}
	records, err := b.redis.commands.MGet(ctx, keys...).Result()
	if err != nil {
		return nil, err
	}
	found := all[:0]
	for i, r := range all {
		if record, ok := records[i].(string); ok && r.reads(record, b) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(x, y *plainReply) int {
		return cmp.Or(strings.Compare(x.service, y.service), cmp.Compare(x.ms, y.ms), cmp.Compare(x.seq, y.seq))
	})
	for i, left := 0, b.takes(); i < len(found) && left > 0; i++ {
		if r := found[i]; r.owes != "" && len(r.body) <= mostHanded {
			r.owes, left = owesHand, left-1
		}
	}
	return found, nil
}
