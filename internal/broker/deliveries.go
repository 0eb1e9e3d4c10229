package broker

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"
)

// deliveries reads the answer to XREADGROUP as it comes from the connection: an array
// of streams, each its name and an array of entries, each its ID and an array of field
// names and values. The library's own reading makes a map of each entry, with a string
// for each name and value; this one makes what a Delivery keeps.
//
// As the writer of a RawWriteToCmd it gets each line of the answer by Write, then its
// end of line, and the bytes of each string with that of theirs by ReadFrom.
type deliveries struct {
	found []Delivery
	said  string // what Redis said in place of an answer, without "-"

	state   readingState
	streams int // to come
	entries int // of the stream
	fields  int // of the entry, names and values
	now     *Delivery
	field   deliveryField
	buffer  []byte // for strings of which nothing is kept as it is
}

// readingState is what comes next.
type readingState int

const (
	readStreams readingState = iota
	readStream
	readName
	readEntries
	readEntry
	readEntryID
	readFields
	readField
	readValue
	readEnd
)

type deliveryField int

const (
	noField deliveryField = iota
	idField
	tokenField
	replyToField
	serviceField
	attemptField
	deadlineField
	leaseField
	contentTypeField
	traceparentField
	headersField
	bodyField
)

// entriesAhead is for how many entries there is room before they came.
const entriesAhead = 128

// spareBuffer is up to what size, in bytes, a buffer is kept for the next string.
const spareBuffer = 64 << 10

var errOddAnswer = errors.New("this is no answer to XREADGROUP")

// Write takes a line, or the end of one.
func (r *deliveries) Write(line []byte) (int, error) {
	if len(line) == 2 && line[0] == '\r' {
		return 2, nil
	}
	if r.state == readStreams && line[0] == '-' {
		r.said, r.state = string(line[1:]), readEnd
		return len(line), nil
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n < -1 || n > math.MaxInt32 {
		return 0, fmt.Errorf("%w: %.20q", errOddAnswer, line)
	}
	if line[0] == '$' && n >= 0 { // its bytes follow
		return len(line), nil
	}
	none := n < 0
	switch {
	case line[0] != '*':
		return 0, fmt.Errorf("%w: %.20q", errOddAnswer, line)
	case r.state == readStreams:
		r.streams = max(n, 0)
		r.nextStream()
	case r.state == readStream && n == 2:
		r.state = readName
	case r.state == readEntries && !none:
		r.entries, r.found = n, slices.Grow(r.found, min(n, entriesAhead))
		r.nextEntry()
	case r.state == readEntry && n == 2:
		r.found = append(r.found, Delivery{Body: []byte{}})
		r.now, r.state = &r.found[len(r.found)-1], readEntryID
	case r.state == readFields && n%2 != 1: // of an entry that was deleted there are none
		r.fields = max(n, 0)
		r.nextField()
	default:
		return 0, fmt.Errorf("%w: %.20q", errOddAnswer, line)
	}
	return len(line), nil
}

// ReadFrom takes a string and the end of its line.
func (r *deliveries) ReadFrom(from io.Reader) (int64, error) {
	limited, ok := from.(*io.LimitedReader)
	if !ok || limited.N < 2 {
		return 0, errOddAnswer
	}
	size := int(limited.N)
	text := r.buffer
	if kept := r.state == readValue && r.field == bodyField; kept || cap(text) < size {
		text = make([]byte, size)
		if !kept && size <= spareBuffer {
			r.buffer = text
		}
	}
	n, err := io.ReadFull(limited.R, text[:size])
	limited.N -= int64(n)
	if err == nil {
		err = r.take(text[: size-2 : size-2])
	}
	return int64(n), err
}

// take uses a string. Unless it is a body, the next is written over it.
func (r *deliveries) take(text []byte) error {
	switch r.state {
	case readName:
		r.state = readEntries
	case readEntryID:
		r.now.Entry, r.state = string(text), readFields
	case readField:
		r.field, r.state = fieldOf(text), readValue
		r.fields--
	case readValue:
		r.value(text)
		r.fields--
		r.nextField()
	default:
		return errOddAnswer
	}
	return nil
}

// end is nil where the answer was whole.
func (r *deliveries) end() error {
	if r.state != readEnd {
		return fmt.Errorf("%w: it ends too early", errOddAnswer)
	}
	return nil
}

func (r *deliveries) nextStream() {
	r.state = readStream
	if r.streams == 0 {
		r.state = readEnd
	}
	r.streams--
}

func (r *deliveries) nextEntry() {
	if r.entries == 0 {
		r.nextStream()
		return
	}
	r.entries--
	r.state = readEntry
}

func (r *deliveries) nextField() {
	r.state = readField
	if r.fields <= 0 {
		r.nextEntry()
	}
}

func fieldOf(name []byte) deliveryField {
	switch string(name) {
	case "id":
		return idField
	case "token":
		return tokenField
	case "reply_to":
		return replyToField
	case "service":
		return serviceField
	case "attempt":
		return attemptField
	case "deadline":
		return deadlineField
	case "lease":
		return leaseField
	case "content_type":
		return contentTypeField
	case "traceparent":
		return traceparentField
	case "headers":
		return headersField
	case "body":
		return bodyField
	}
	return noField
}

// value sets the field of the present delivery.
func (r *deliveries) value(text []byte) {
	d, before := r.now, &Delivery{}
	if len(r.found) > 1 {
		before = &r.found[len(r.found)-2] // which has much in common with this one
	}
	switch r.field {
	case idField:
		d.ID = string(text)
	case tokenField:
		d.Token = string(text)
	case replyToField:
		d.ReplyTo = same(before.ReplyTo, text)
	case serviceField:
		d.Service = same(before.Service, text)
	case attemptField:
		d.Attempt = int(number(string(text)))
	case deadlineField:
		d.Deadline = millis(string(text))
	case leaseField:
		d.Lease = time.Duration(number(string(text))) * time.Millisecond
	case contentTypeField:
		d.ContentType = same(before.ContentType, text)
	case traceparentField:
		d.Traceparent = string(text)
	case headersField:
		d.Headers = decodeHeaders(text)
	case bodyField:
		d.Body = text
	}
}

// same is text as a string, which is before where that is the same.
func same(before string, text []byte) string {
	if before == string(text) {
		return before
	}
	return string(text)
}
