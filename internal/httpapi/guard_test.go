package httpapi_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/httpapi"
)

// TestOtherOrigins: a page of another site can't make a browser change
// anything here; programs, which send no origin, are not in the way.
func TestOtherOrigins(t *testing.T) {
	public := func(o *httpapi.Options) { o.PublicURL = "https://requests.example.com/base" }
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		link := strings.TrimPrefix(d.Links.Self, "https://requests.example.com/base")
		for _, headers := range [][]string{
			{"Origin: https://evil.example"},
			{"Origin: null"},
			{"Sec-Fetch-Site: cross-site"},
			{"Sec-Fetch-Site: same-site", "Origin: https://other.example.com"},
			{"Origin: http://requests.example.com"},
			{"Origin: https://requests.example.com.evil.example"},
		} {
			f.post(echoRequests, "x", headers...).problem(t, "forbidden")
			f.post(link+"/cancel", "", headers...).problem(t, "forbidden")
			f.post(link+"/stream-ticket", "", headers...).problem(t, "forbidden")
			f.call(http.MethodDelete, link, nil, headers...).problem(t, "forbidden")
			if a := f.get(link, headers...); a.StatusCode != 200 || a.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%v: %d %v", headers, a.StatusCode, a.Header)
			}
		}
		f.accepted(1)
		for _, headers := range [][]string{{"Sec-Fetch-Site: same-origin"}, {"Sec-Fetch-Site: none"}, {"Origin: http://gateway"}, {"Origin: https://requests.example.com"}} {
			if a := f.post(echoRequests, "x", headers...); a.StatusCode != 202 {
				t.Errorf("%v: %d %s", headers, a.StatusCode, a.body)
			}
		}
	}, public)
}

// TestPanics end one call, not the gateway, and never half an answer that looks
// whole.
func TestPanics(t *testing.T) {
	wild := func(o *httpapi.Options) {
		o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Begin") != "" {
				io.WriteString(w, "half")
			}
			panic("a secret of the stack")
		})
	}
	inside(t, func(t *testing.T, f *front) {
		const get = "GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
		if got := f.raw(get + "\r\n"); !got.is("internal") || strings.Contains(got.text, "secret") || strings.Contains(got.text, ".go") {
			t.Errorf("%s", got.text)
		}
		if got := f.raw(get + "Begin: yes\r\n\r\n"); strings.Contains(got.text, "problem") || strings.HasSuffix(got.text, "\r\n0\r\n\r\n") {
			t.Errorf("%s", got.text)
		}
		if log := f.log.String(); !strings.Contains(log, "a secret of the stack") || !strings.Contains(log, "guard_test.go") {
			t.Error("the log does not say what happened")
		}
		f.submit("the gateway goes on")
	}, wild)
}

// TestSlowReplyReader: who takes a large reply too slowly is dropped, and the
// memory that it held comes back.
func TestSlowReplyReader(t *testing.T) {
	const size = 1 << 20
	tight := func(o *httpapi.Options) { o.MaxBody = size; o.Inflight = 1 }
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		f.echo(func(r *broker.WorkerReply) { r.Body = []byte(strings.Repeat("y", size)) })
		slow := f.dial()
		defer slow.Close()
		io.WriteString(slow, "GET "+d.Links.Reply+" HTTP/1.1\r\nHost: gateway\r\n\r\n")
		io.ReadFull(slow, make([]byte, 100))
		f.get(d.Links.Reply).problem(t, "memory-full")
		time.Sleep(45 * time.Second) // 32 KiB a second, and ten for the beginning
		if a := f.get(d.Links.Reply); a.StatusCode != 200 || len(a.body) != size {
			t.Errorf("%d, %d bytes", a.StatusCode, len(a.body))
		}
	}, tight)
}
