package httpapi_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	gosse "github.com/tmaxmax/go-sse"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/httpapi"
	"github.com/coatcheck/coatcheck/internal/sse"
)

// FuzzPrefer: a wish is never an error, and never a wait above a minute; what
// is said to be applied can be asked for again with the same result.
func FuzzPrefer(f *testing.F) {
	f.Fuzz(func(t *testing.T, line, more string) {
		wait, applied := httpapi.Preferences(line, more)
		d, err := time.ParseDuration(wait)
		if err != nil || d < 0 || d > time.Minute || d%time.Second != 0 {
			t.Errorf("%q %q: waits %s", line, more, wait)
		}
		if strings.Contains(applied, "wait=") != (d > 0) {
			t.Errorf("%q %q: waits %s, applies %q", line, more, wait, applied)
		}
		if again, same := httpapi.Preferences(applied); again != wait || same != applied {
			t.Errorf("%q: %s and %q", applied, again, same)
		}
	})
}

// FuzzDuration: what is taken is never negative, and means what it says.
func FuzzDuration(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		d, ok := httpapi.ParseDuration(text)
		if !ok {
			return
		}
		if d < 0 {
			t.Fatalf("%q is %v", text, d)
		}
		if seconds, err := strconv.ParseUint(text, 10, 64); err == nil && d != time.Duration(seconds)*time.Second {
			t.Errorf("%q is %v", text, d)
		}
		if again, ok := httpapi.ParseDuration(d.String()); !ok || again != d {
			t.Errorf("%q is %v, which is %v", text, d, again)
		}
	})
}

// FuzzOptions: whatever headers a submit has, it is refused in words or stays
// within the bounds, and only fit text goes on.
func FuzzOptions(f *testing.F) {
	s := httpapi.New(httpapi.Options{CheckCallback: func(string) error { return nil }})
	bounds := httpapi.DefaultBounds
	f.Fuzz(func(t *testing.T, name, value, timeout, retention, callback, events string) {
		h := http.Header{}
		for n, v := range map[string]string{
			name: value, api.HeaderTimeout: timeout, api.HeaderRetention: retention,
			api.HeaderCallbackURL: callback, api.HeaderCallbackEvents: events,
		} {
			if v != "" {
				h.Add(n, v)
			}
		}
		sub, err := httpapi.Submission(s, h)
		if err != nil {
			if len(err.Error()) > 2000 || !utf8.ValidString(err.Error()) || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("refused by %q", err)
			}
			return
		}
		if sub.Timeout != 0 && (sub.Timeout < bounds.MinTimeout || sub.Timeout > bounds.MaxTimeout) ||
			sub.Retention != 0 && (sub.Retention < bounds.MinRetention || sub.Retention > bounds.MaxRetention) {
			t.Errorf("timeout %v, retention %v", sub.Timeout, sub.Retention)
		}
		if timeout != "" && sub.Timeout == 0 || retention != "" && sub.Retention == 0 || callback != "" && sub.Callback == nil {
			t.Errorf("an option was passed over: %v gave %+v", h, sub)
		}
		carried := []string{sub.ContentType, sub.Traceparent, sub.IdempotencyKey}
		for n, v := range sub.Headers {
			carried = append(carried, n, v)
		}
		if sub.Callback != nil {
			if len(sub.Callback.Events) == 0 {
				t.Errorf("a callback about nothing: %v", h)
			}
			carried = append(carried, sub.Callback.URL)
		}
		for _, text := range carried {
			if !utf8.ValidString(text) || strings.ContainsAny(text, "\r\n\x00") {
				t.Errorf("%v lets %q pass", h, text)
			}
		}
	})
}

// FuzzLastEventID: a number of an event, or a refusal; the header counts first.
func FuzzLastEventID(f *testing.F) {
	f.Fuzz(func(t *testing.T, header, query string) {
		n, err := httpapi.LastEventID(header, query)
		text := header
		if text == "" {
			text = query
		}
		digits := strings.Trim(text, "0123456789") == "" && len(text) <= 9
		if (err == nil) != digits {
			t.Fatalf("%q %q: %d, %v", header, query, n, err)
		}
		if want, _ := strconv.Atoi(text); err == nil && n != want {
			t.Errorf("%q %q: %d", header, query, n)
		}
	})
}

// FuzzIdempotencyKey: visible ASCII of a bounded length, or a refusal; the
// quoted and the bare form of a key are one.
func FuzzIdempotencyKey(f *testing.F) {
	f.Fuzz(func(t *testing.T, line string) {
		key, err := httpapi.IdempotencyKey(line)
		if err != nil {
			return
		}
		if key == "" || len(key) > 255 || strings.ContainsFunc(key, func(c rune) bool { return c < '!' || c > '~' }) {
			t.Fatalf("%q gives the key %q", line, key)
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
		if again, err := httpapi.IdempotencyKey(quoted); err != nil || again != key {
			t.Errorf("%q is %q, but %q is %q, %v", line, key, quoted, again, err)
		}
	})
}

// FuzzFrame: whatever bytes a frame holds, a reader gets exactly one event of
// that name, with those lines.
func FuzzFrame(f *testing.F) {
	f.Fuzz(func(t *testing.T, id uint16, data []byte) {
		stream := sse.AppendFrame(sse.AppendFrame(nil, "progress", frameID(id), data), "outcome", "", []byte("{}"))
		got := readEvents(t, stream)
		lines := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data))
		if len(got) != 2 || got[0].Type != "progress" || got[0].Data != lines || got[1].Type != "outcome" || got[1].Data != "{}" {
			t.Fatalf("%q was read as %q", stream, got)
		}
		if want := strconv.Itoa(int(id)); id > 0 && got[0].LastEventID != want || id == 0 && got[0].LastEventID != "" {
			t.Errorf("%q has the ID %q", stream, got[0].LastEventID)
		}
	})
}

// FuzzEvent: whatever a worker sends, the event is one frame of one line of
// JSON that holds it.
func FuzzEvent(f *testing.F) {
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		document := broker.EventDocument(broker.Event{Number: 1, Type: "partial", ContentType: contentType, Body: body})
		data, err := broker.EncodeJSON(document)
		if err != nil {
			t.Fatal(err)
		}
		got := readEvents(t, sse.AppendFrame(nil, "partial", "1", data))
		if len(got) != 1 || got[0].Data != string(data) || got[0].LastEventID != "1" {
			t.Fatalf("%q was read as %q", data, got)
		}
		var back api.Event
		if err := json.Unmarshal([]byte(got[0].Data), &back); err != nil {
			t.Fatalf("%q: %v", got[0].Data, err)
		}
		if !sameBody(back, body) {
			t.Errorf("%q came back as %s %s", body, back.Encoding, back.Body)
		}
	})
}

func sameBody(e api.Event, body []byte) bool {
	switch e.Encoding {
	case "text":
		var text string
		return json.Unmarshal(e.Body, &text) == nil && text == string(body)
	case "base64":
		var raw []byte
		return json.Unmarshal(e.Body, &raw) == nil && bytes.Equal(raw, body)
	case "json":
		var want bytes.Buffer
		return json.Compact(&want, body) == nil && bytes.Equal(want.Bytes(), e.Body)
	}
	return false
}

func readEvents(t *testing.T, stream []byte) (events []gosse.Event) {
	t.Helper()
	for e, err := range gosse.Read(bytes.NewReader(stream), &gosse.ReadConfig{MaxEventSize: 16 << 20}) {
		if err != nil {
			t.Fatalf("%q: %v", stream, err)
		}
		events = append(events, e)
	}
	return events
}

// frameID writes a number as a stream does: 0 means none.
func frameID(n uint16) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(int(n))
}
