package broker

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/coatcheck/coatcheck/api"
)

// EncodeJSON is how documents are written everywhere: one line, and characters
// as they are, so that a reply reads as its worker wrote it.
func EncodeJSON(v any) ([]byte, error) {
	if d, ok := v.(api.Status); ok {
		return AppendStatus(nil, &d)
	}
	return encodeJSON(v)
}

// AppendStatus adds what EncodeJSON makes of a status document, which need not be copied
// for it.
func AppendStatus(b []byte, d *api.Status) ([]byte, error) {
	if b, ok := appendStatus(slices.Grow(b, statusSize+len(d.Reply.Body)), d); ok {
		return b, nil
	}
	encoded, err := encodeJSON(*d)
	return append(b, encoded...), err
}

func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

const statusSize = 1024 // bytes of a status document without a reply, at most as a rule

// appendStatus writes a status document by hand: each exchange has two or three of
// them, and encoding/json takes more than twice as long. It is false for what few documents
// have, which is left to that.
func appendStatus(b []byte, d *api.Status) ([]byte, bool) {
	if len(d.Attempts) > 0 || d.Scatter.Legs != nil || d.Scatter.MinReplies != 0 || d.Scatter.Succeeded != 0 {
		return nil, false
	}
	o := object{b: append(b, '{')}
	o.text("correlation_id", d.CorrelationID)
	o.text("service", d.Service)
	o.text("status", string(d.Status))
	o.given("reason", d.Reason)
	o.number("attempt", d.Attempt)
	o.counted("max_attempts", d.MaxAttempts)
	o.given("priority", string(d.Priority))
	if d.Error != (api.Error{}) {
		o.name("error")
		o.open()
		o.text("code", d.Error.Code)
		o.text("message", d.Error.Message)
		o.close()
	}
	o.given("worker", d.Worker)
	o.number("events", d.Events)
	o.time("created_at", d.CreatedAt)
	o.instant("queued_at", d.QueuedAt)
	o.instant("scheduled_for", d.ScheduledFor)
	o.instant("started_at", d.StartedAt)
	o.instant("finished_at", d.FinishedAt)
	o.time("deadline_at", d.DeadlineAt)
	o.instant("expires_at", d.ExpiresAt)
	o.given("retried_as", d.RetriedAs)
	o.given("retry_of", d.RetryOf)
	o.given("cache", string(d.Cache))
	o.instant("cached_at", d.CachedAt)
	if len(d.Tags) > 0 {
		o.name("tags")
		for i, tag := range d.Tags {
			o.b = append(o.b, "[,"[min(i, 1)])
			o.string(tag)
		}
		o.b = append(o.b, ']')
	}
	o.counted("queue_position", d.QueuePosition)
	o.instant("estimated_start", d.EstimatedStart)
	if d.LiveWorkers != nil {
		o.number("live_workers", *d.LiveWorkers)
	}
	o.name("links")
	o.open()
	o.text("self", d.Links.Self)
	o.text("reply", d.Links.Reply)
	o.text("events", d.Links.Events)
	o.text("cancel", d.Links.Cancel)
	o.close()
	o.reply(&d.Reply)
	o.close()
	return o.b, !o.failed
}

func (o *object) reply(r *api.Reply) {
	if r.ContentType == "" && r.StatusCode == 0 && r.Size == 0 && r.Encoding == "" && r.Body == nil {
		return
	}
	o.name("reply")
	o.open()
	o.text("content_type", r.ContentType)
	o.number("status_code", r.StatusCode)
	o.number("size", r.Size)
	o.given("encoding", string(r.Encoding))
	if len(r.Body) > 0 {
		o.name("body")
		o.raw(r.Body)
	}
	o.close()
}

// object writes a JSON object as encoding/json would.
type object struct {
	b      []byte
	failed bool // something can't be written
}

func (o *object) open()  { o.b = append(o.b, '{') }
func (o *object) close() { o.b = append(o.b, '}') }

func (o *object) name(name string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(append(append(o.b, '"'), name...), `":`...)
}

func (o *object) text(name, value string) {
	o.name(name)
	o.string(value)
}

// given is text that is left out where there is none.
func (o *object) given(name, value string) {
	if value != "" {
		o.text(name, value)
	}
}

func (o *object) number(name string, value int) {
	o.name(name)
	o.b = strconv.AppendInt(o.b, int64(value), 10)
}

// counted is a number that is left out where it is 0.
func (o *object) counted(name string, value int) {
	if value != 0 {
		o.number(name, value)
	}
}

func (o *object) time(name string, t api.Time) {
	o.name(name)
	o.b = append(o.b, '"')
	at := time.Time(t).UTC()
	year, month, day := at.Date()
	hour, minute, second := at.Clock()
	if year < 0 || year > 9999 {
		o.b = append(append(o.b, t.String()...), '"')
		return
	}
	o.digits(year, 4, '-')
	o.digits(int(month), 2, '-')
	o.digits(day, 2, 'T')
	o.digits(hour, 2, ':')
	o.digits(minute, 2, ':')
	o.digits(second, 2, '.')
	o.digits(at.Nanosecond()/int(time.Millisecond), 3, 'Z')
	o.b = append(o.b, '"')
}

func (o *object) digits(n, width int, end byte) {
	from := len(o.b)
	o.b = append(o.b, "0000"[:width]...)
	for i := len(o.b) - 1; i >= from; i-- {
		o.b[i] = byte('0' + n%10)
		n /= 10
	}
	o.b = append(o.b, end)
}

// instant is a time that is left out where there is none.
func (o *object) instant(name string, t api.Time) {
	if !t.IsZero() {
		o.time(name, t)
	}
}

func (o *object) string(s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			encoded, err := encodeJSON(s)
			o.b, o.failed = append(o.b, encoded...), o.failed || err != nil
			return
		}
	}
	o.b = append(append(append(o.b, '"'), s...), '"')
}

// raw is valid JSON, which loses the blanks between its tokens.
func (o *object) raw(value []byte) {
	for _, blank := range []byte(" \n\t\r") {
		if bytes.IndexByte(value, blank) >= 0 {
			o.b = appendCompact(o.b, value)
			return
		}
	}
	o.b = append(o.b, value...)
}
