package httpapi_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tmaxmax/go-sse"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// evil are words that would begin a header, a body, an event or a log line,
// where somebody let them.
var evil = []string{
	"text/plain\r\nX-Evil: 1", "text/plain\nX-Evil: 1\n\n<body>", "text/plain\rX-Evil: 1", "text/plain\r\n\r\n<body>",
	"a\n\nevent: outcome\ndata: {}\n\n", "a\x00b", "a\x1b[31m", "a\u2028b", "\xff\xfe", "text/pl\xc3", "\"}, {\"", "",
	"text/plain; name=\"\r\nX-Evil: 1\"", strings.Repeat("a", 100_000),
}

// xadd replies as a worker that is free in what it writes.
func (f *front) xadd(d broker.Delivery, fields ...string) {
	f.t.Helper()
	if _, err := f.mini.XAdd(d.ReplyTo, "*", append([]string{"token", d.Token}, fields...)); err != nil {
		f.t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // above the longest blocking read
}

// TestEvilReplies: whatever a worker says stays inside of its field, in the
// reply's headers, in the documents, in the events and in the log.
func TestEvilReplies(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for _, kind := range []string{"final", "failed"} {
			for _, word := range evil {
				d := f.submit("x")
				work := f.claim()
				f.xadd(work, "type", "progress", "content_type", word, "body", word)
				f.xadd(work, "type", "partial", "content_type", "application/json", "body", "{\r\n\"a\"\r:\n1}")
				f.xadd(work, "type", kind, "content_type", word, "status_code", word, "error", word, "error_code", word, "body", "body")
				s := f.get(d.Links.Self).status(t)
				if s.FinishedAt.IsZero() || len(s.Error.Code) > 100 || len(s.Error.Message) > 2000 || len(s.Reply.ContentType) > 300 {
					t.Errorf("%.40q: %.500s", word, f.get(d.Links.Self).body)
				}
				got := f.raw("GET " + d.Links.Reply + " HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").text
				reply, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
				if err != nil {
					t.Fatalf("%.40q: %v", word, err)
				}
				body, _ := io.ReadAll(reply.Body)
				reply.Body.Close()
				if string(body) != "body" || reply.Header.Get("X-Evil") != "" || len(reply.Header) != 8 || strings.Contains(got, "X-Evil: 1\r\n") ||
					reply.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(reply.Header.Get("Content-Security-Policy"), "sandbox") {
					t.Errorf("%.40q: %d %v %q", word, reply.StatusCode, reply.Header, body)
				}
				var events []string
				for e, err := range sse.Read(bytes.NewReader(f.get(d.Links.Events).body), &sse.ReadConfig{MaxEventSize: 1 << 20}) {
					if err != nil || !utf8.ValidString(e.Data) {
						t.Fatalf("%.40q: %v %q", word, err, e.Data)
					}
					events = append(events, e.Type+e.LastEventID)
				}
				if got := strings.Join(events, " "); got != "status progress1 partial2 outcome3" {
					t.Errorf("%.40q: events %s", word, got)
				}
			}
		}
		if log := f.log.String(); strings.Contains(log, "\nX-Evil") || strings.Contains(log, "\x1b") || !utf8.ValidString(log) {
			t.Error("a worker writes into the log")
		}
	})
}

// TestStatusCodesOfWorkers: only what an answer with a body may have, and a
// failure never looks like a success.
func TestStatusCodesOfWorkers(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		for said, want := range map[string]struct{ final, failed int }{
			"": {200, 500}, "201": {201, 502}, "299": {299, 502}, "404": {404, 404}, "503": {503, 503}, "599": {599, 599},
			"204": {200, 502}, "205": {200, 502}, "304": {200, 502}, "100": {200, 500}, "101": {200, 500}, "99": {200, 500},
			"600": {200, 500}, "-1": {200, 500}, "0": {200, 500}, "nan": {200, 500}, "inf": {200, 500}, "1e99": {200, 500},
			"201\r\nX-Evil: 1": {200, 500}, "two hundred": {200, 500},
		} {
			for kind, code := range map[string]int{"final": want.final, "failed": want.failed} {
				d := f.submit("x")
				f.xadd(f.claim(), "type", kind, "status_code", said, "body", "body")
				if a := f.get(d.Links.Reply); a.StatusCode != code || string(a.body) != "body" {
					t.Errorf("%s with %q: %d %q, want %d", kind, said, a.StatusCode, a.body, code)
				}
			}
		}
		d := f.submit("x")
		f.xadd(f.claim(), "type", "final", "status_code", "204", "body", "")
		if a := f.get(d.Links.Reply); a.StatusCode != 204 || a.Header.Get("Content-Length") != "" {
			t.Errorf("no content: %d %v", a.StatusCode, a.Header)
		}
	})
}

// TestEvilHeaders: control characters of a client end at the door.
func TestEvilHeaders(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		names := append([]string{"Content-Type", "Content-Encoding", "Idempotency-Key", "Traceparent", "Prefer", "X-Forward", "User-Agent"}, api.Options...)
		for _, name := range names {
			for _, c := range []string{"\x00", "\x01", "\r", "\x1b", "\x7f"} {
				got := f.raw(head + "Connection: close\r\nContent-Length: 0\r\n" + name + ": a" + c + "b\r\n\r\n").text
				if !strings.HasPrefix(got, "HTTP/1.1 400 ") {
					t.Errorf("%s with %q: %s", name, c, got)
				}
			}
		}
		for _, header := range []string{"Content-Type: a\xff", "Content-Encoding: \xc3", "Coatcheck-Callback-Url: http://\xff/", "Coatcheck-Callback-Events: \xff", "X-Thing: \xed\xa0\x80"} {
			f.post(echoRequests, "x", header).problem(t, "invalid-option")
		}
		f.post(echoRequests, "x", "Idempotency-Key: \xff").problem(t, "invalid-option")
		f.post(echoRequests, "x", "Content-Type: text/plain", "Content-Type: text/html").problem(t, "invalid-option")
		f.post(echoRequests, "x", "Coatcheck-Timeout: 5s", "Coatcheck-Timeout: 5s").problem(t, "invalid-option")
		long := f.post(echoRequests, "x", "Coatcheck-"+strings.Repeat("x", 10_000)+": 1")
		if long.problem(t, "invalid-option"); len(long.body) > 1000 {
			t.Errorf("a long name is repeated: %d bytes", len(long.body))
		}
		f.accepted(0)
		const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		f.submit("x", "Traceparent: "+parent, "Traceparent: "+parent)
		if d := f.claim(); d.Traceparent != "" {
			t.Errorf("which of two? %q", d.Traceparent)
		}
	})
}

// TestGzipStaysGzip: a coding is a word between client and worker.
func TestGzipStaysGzip(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(bytes.Repeat([]byte("zeros "), 1<<20))
	z.Close()
	inside(t, func(t *testing.T, f *front) {
		for _, coding := range []string{"gzip", "br, gzip", "x-unheard-of"} {
			d := f.submit(b.String(), "Content-Encoding: "+coding, "Content-Type: text/plain")
			work := f.claim()
			if !bytes.Equal(work.Body, b.Bytes()) || work.Headers["content-encoding"] != coding {
				t.Errorf("%s: the worker got %d bytes, %v", coding, len(work.Body), work.Headers)
			}
			f.send(work, broker.WorkerReply{Type: "final", ContentType: "text/plain", Body: work.Body})
			if a := f.get(d.Links.Reply); !bytes.Equal(a.body, b.Bytes()) || a.Header.Get("Content-Encoding") != "" || a.Uncompressed {
				t.Errorf("%s: the client got %d bytes, %v", coding, len(a.body), a.Header)
			}
		}
	})
}
