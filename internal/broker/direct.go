package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

var directScript = scriptOf("prelude", "record", "moves", "line", "clocks", "direct")

// kind is what direct.lua does once for all that have it in common.
type kind struct {
	kindKey
	calls []*call[*submission, verdict]
}

type kindKey struct {
	service                                      string
	plan                                         planNumbers
	tenant, policy, contentType, headers, waiter string
	register                                     bool
}

func (s *submission) kind() kindKey {
	return kindKey{s.Service, s.planNumbers(), tenantText(s.Tenant), s.policy, s.ContentType, s.headers, s.waiter, s.register}
}

// takes adds a call to those of its kind. It is false where one of these has the same ID or
// idempotency key, which the script does not look for: submit.lua finds it by its record.
func (t *submits) takes(c *call[*submission, verdict]) bool {
	key := c.ask.kind()
	at := slices.IndexFunc(t.kinds, func(k *kind) bool { return k.kindKey == key })
	if at < 0 {
		at, t.kinds = len(t.kinds), append(t.kinds, &kind{kindKey: key})
	}
	k := t.kinds[at]
	for _, other := range k.calls {
		if other.ask.id == c.ask.id || c.ask.binding != "" && other.ask.binding == c.ask.binding {
			return false
		}
	}
	k.calls = append(k.calls, c)
	return true
}

// payload is bytes as an argument: behind a pointer, like the texts beside it, they need
// no piece of memory of their own to be one.
type payload []byte

func (p *payload) MarshalBinary() ([]byte, error) { return *p, nil }

// appendTo adds what the script is told of the kind.
func (k *kind) appendTo(args []any) []any {
	args = append(args, &k.service, k.plan.String(), &k.tenant, flag(k.register), &k.policy, &k.contentType, &k.headers, &k.waiter, len(k.calls))
	count, with := len(args), 0
	args = append(args, with)
	for _, c := range k.calls {
		args = append(args, &c.ask.name, &c.ask.nonce, (*payload)(&c.ask.Body))
	}
	for i, c := range k.calls {
		if options := c.ask.options(); len(options) > 0 {
			args, with = append(append(args, i+1, len(options)/2), options...), with+1
		}
	}
	args[count] = with
	return args
}

// readDirect reads what direct.lua returned.
func (t *submits) readDirect(raw any) {
	words := strings.Split(text(raw), " ")
	if len(words) != 1+len(t.kinds)+len(t.calls) {
		for _, c := range t.calls {
			c.err = fmt.Errorf("the script answered %d words about %d submits of %d kinds", len(words), len(t.calls), len(t.kinds))
		}
		return
	}
	now, words := words[0], words[1:]
	for _, k := range t.kinds {
		ordinal := number(words[0])
		for i, c := range k.calls {
			switch entry := words[1+i]; entry {
			case "left":
				c.answer = verdict{}
			case "full":
				c.answer = verdict{"full"}
			case "line":
				c.answer = verdict{"accepted", now, "", "0", string(Queued)}
			default:
				ordinal++
				c.answer = verdict{"accepted", now, entry, strconv.FormatInt(ordinal, 10), string(Queued)}
			}
		}
		words = words[1+len(k.calls):]
	}
}
