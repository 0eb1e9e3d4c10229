package callback

import (
	"fmt"
	"strconv"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// bodySize is how many bytes a callback has at most, as a rule, without the reply.
const bodySize = 1200

// message is one callback, ready to be signed and sent.
type message struct {
	url           string
	id            string // of the event, the same in every attempt
	correlationID string
	traceparent   string // "" for none
	body          []byte
}

// compose writes the message for an intent. The status document is the one that
// a poll shows, byte for byte; e is the event of a progress intent. What is made
// of a dead letter later is left out: who is called twice gets the same twice.
func compose(i broker.Intent, r broker.Record, e *broker.Event, publicURL string) (message, error) {
	at := r.Finished
	r.RetriedAs = ""
	if e != nil {
		at = e.At
	}
	size := bodySize
	if r.Reply != nil {
		size += len(r.Reply.Body)
	}
	// By hand, because an encoder would rewrite the document that it is given.
	body := make([]byte, 0, size)
	body = append(body, `{"type":"request.`...)
	body = append(body, i.Type...)
	body = append(body, `","timestamp":"`...)
	body = append(body, api.Time(at.Truncate(time.Millisecond)).String()...)
	body = append(body, `","data":`...)
	document := broker.Document(r, publicURL)
	body, err := broker.AppendStatus(body, &document)
	if err != nil {
		return message{}, fmt.Errorf("write the status document: %w", err)
	}
	if e != nil {
		event, err := broker.EncodeJSON(broker.EventDocument(*e))
		if err != nil {
			return message{}, fmt.Errorf("write the event: %w", err)
		}
		body = append(body[:len(body)-1], `,"event":`...) // one more member of the object
		body = append(append(body, event...), '}')
	}
	body = append(body, '}')
	return message{
		url: r.Callback.URL, id: i.ID.String() + "." + strconv.Itoa(i.Number),
		correlationID: i.ID.String(), traceparent: r.Traceparent, body: body,
	}, nil
}
