package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// eventsPage is how many events one read returns; a reader asks again until it
// has the last.
const eventsPage = 256

var eventsScript = newScript("events")

// Events reads a record together with up to 256 of its events numbered above
// after, both as of one instant. first is the number of the oldest event that
// is kept, 0 for none: after+1 < first means that history was cut. ErrGone,
// ErrUnavailable.
func (b *Broker) Events(ctx context.Context, id correlation.ID, after int) (r Record, events []Event, first int, err error) {
	return b.Replies(ctx, id, after, eventsPage)
}

// Replies is Events with up to most of them.
func (b *Broker) Replies(ctx context.Context, id correlation.ID, after, most int) (r Record, events []Event, first int, err error) {
	raw, err := b.readEvents(ctx, id, eventsAsk{after, most, InlineReply, false})
	if err != nil {
		return Record{}, nil, 0, err
	}
	r, err = parseView(id, raw[0])
	if err != nil {
		return Record{}, nil, 0, err
	}
	first = int(number(texts(raw)[1]))
	for i, line := range texts(raw[2]) {
		events = append(events, parseEvent(r, max(after+1, first)+i, line))
	}
	return r, events, first, b.shown(ctx, r, len(events))
}

// Owed reads what a callback tells of: the record, and for a progress intent
// the event, nil where it was cut. Unlike the other reads it sees a record that
// outlived its retention because the callback is still owed. ErrGone,
// ErrUnavailable.
func (b *Broker) Owed(ctx context.Context, i Intent) (Record, *Event, error) {
	if i.record != nil {
		return *i.record, nil, b.shown(ctx, *i.record, 0)
	}
	if i.Type != "progress" { // the record alone says it
		r, err := b.read(ctx, readAsk{id: i.ID, owed: true})
		return r, nil, err
	}
	raw, err := b.readEvents(ctx, i.ID, eventsAsk{i.Number - 1, 1, InlineReply, true})
	if err != nil {
		return Record{}, nil, err
	}
	r, err := parseView(i.ID, raw[0])
	if err != nil {
		return Record{}, nil, err
	}
	lines := texts(raw[2])
	if len(lines) == 0 || number(texts(raw)[1]) > int64(i.Number) {
		return r, nil, b.shown(ctx, r, 0)
	}
	e := parseEvent(r, i.Number, lines[0])
	return r, &e, b.shown(ctx, r, 1)
}

// Reply reads a record with the whole reply body. ErrGone, ErrUnavailable.
func (b *Broker) Reply(ctx context.Context, id correlation.ID) (Record, error) {
	raw, err := b.readEvents(ctx, id, eventsAsk{math.MaxInt32, 0, math.MaxInt32, false})
	if err != nil {
		return Record{}, err
	}
	r, err := parseView(id, raw[0])
	if err != nil {
		return Record{}, err
	}
	return r, b.shown(ctx, r, 0)
}

// eventsAsk is what of a request and its events is to be read; see events.lua. Its
// zero value asks for nothing of them.
type eventsAsk struct {
	after, most, inline int
	owed                bool
}

func (a eventsAsk) args(id correlation.ID) []any {
	return []any{id.String(), a.after, a.most, a.inline, flag(a.owed)}
}

// readEvents asks for few bytes together with others, for many alone: nobody else is to
// wait for them.
func (b *Broker) readEvents(ctx context.Context, id correlation.ID, a eventsAsk) ([]any, error) {
	var raw any
	var err error
	if a.most <= 1 && a.inline <= InlineReply {
		raw, err = b.ask(ctx, readAsk{id: id, events: a})
	} else if err = b.Ready(); err == nil {
		p := b.partitionOf(id)
		raw, err = eventsScript.run(ctx, b.redis, p, []string{p.request(id)}, a.args(id)...)
		if errors.Is(err, redis.Nil) {
			raw, err = nil, nil
		}
		err = fault("read the events of a request", err)
	}
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, ErrGone
	}
	list, _ := raw.([]any)
	if len(list) != 3 {
		return nil, fmt.Errorf("read the events of a request: %d parts instead of 3", len(list))
	}
	return list, nil
}

// parseEvent reads an event of r as events.lua returns it.
func parseEvent(r Record, n int, line string) Event {
	head, body, _ := strings.Cut(line, "\n")
	at, rest, _ := strings.Cut(head, " ")
	kind, contentType, _ := strings.Cut(rest, " ")
	e := Event{Number: n, At: millis(at), Body: bytes.Clone([]byte(body)), Size: len(body)}
	var leg string
	e.Type, leg, _ = strings.Cut(kind, "/")
	if i := int(number(leg)); i > 0 && i <= len(r.Legs) {
		e.Service = r.Legs[i-1].Service
		if e.Type == "answer" {
			var size string
			size, contentType, _ = strings.Cut(contentType, " ")
			e.Type, e.Leg = "partial", &r.Legs[i-1]
			if e.Size = int(number(size)); e.Size != len(body) {
				e.Body = nil // too large for an event
			}
		}
	}
	e.ContentType = validText(contentType)
	return e
}
