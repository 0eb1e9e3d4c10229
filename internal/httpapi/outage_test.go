package httpapi_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// TestStreamOutlivesRedis: it stays open with heartbeats, and goes on.
func TestStreamOutlivesRedis(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x", "Coatcheck-Timeout: 1h")
		r := f.follow(d.Links.Events)
		f.wantEvents(r, "retry status")
		f.redis(false)
		f.get(d.Links.Events).problem(t, "unavailable") // a stream can't begin now
		for range 4 {
			if got := r.any(); got.text != ": heartbeat\n\n" {
				t.Errorf("without Redis: %q", got.text)
			}
		}
		f.redis(true)
		back := time.Now()
		work := f.claim()
		f.send(work, progress("1"))
		f.wantEvents(r, "status progress1")
		if took := time.Since(back); took > 5*time.Second {
			t.Errorf("it goes on %v after Redis came back", took)
		}
		f.send(work, broker.WorkerReply{Type: "final"})
		f.wantEvents(r, "outcome2 end")
	})
}

// TestStreamOfWhatIsDeleted ends, and who comes back learns why.
func TestStreamOfWhatIsDeleted(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		r := f.follow(d.Links.Events)
		f.wantEvents(r, "retry status")
		if a := f.call(http.MethodDelete, d.Links.Self, nil); a.StatusCode != 204 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		begun := time.Now()
		for got := r.next(); got.text != ""; got = r.next() {
			if short(got.text) != "outcome1" || !strings.Contains(got.text, `"canceled"`) {
				t.Errorf("%q", got.text)
			}
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("it ended after %v", took)
		}
		f.get(d.Links.Events).problem(t, "gone")
	})
}

// TestDrainClosesStreams, so that their clients resume elsewhere; a new one is
// refused.
func TestDrainClosesStreams(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		r := f.follow(d.Links.Events)
		f.wantEvents(r, "retry status")
		waits := make(chan answer)
		go func() { waits <- f.get(d.Links.Self + "?wait=60s") }()
		synctest.Wait()  // until it does
		f.server.Leave() // balancers hear of it; who calls all the same is served, and goes elsewhere next
		f.get("/readyz").problem(t, "draining")
		if a := f.post(echoRequests, "y"); a.StatusCode != 202 || !a.Close {
			t.Errorf("a submit to a gateway that leaves: %d, its connection stays: %v", a.StatusCode, !a.Close)
		}
		f.server.Drain()
		f.get(d.Links.Events).problem(t, "draining")
		f.post(echoRequests, "y").problem(t, "draining")
		f.get("/readyz").problem(t, "draining")
		if a := f.get(d.Links.Self); a.StatusCode != 200 {
			t.Errorf("a poll while it drains: %d", a.StatusCode)
		}
		begun := time.Now()
		f.hub.Drain()
		if a := <-waits; a.StatusCode != 200 || !a.Close {
			t.Errorf("a wait at a gateway that leaves: %d, its connection stays: %v", a.StatusCode, !a.Close)
		}
		if got := r.any(); got.text != "" || got.at.Sub(begun) > time.Second {
			t.Errorf("%q after %v", got.text, got.at.Sub(begun))
		}
		f.nobody()
	})
}

// nobody wants no waiter, no stream and no watch to be left.
func (f *front) nobody() {
	f.t.Helper()
	time.Sleep(time.Second)
	waiting, streams := f.server.Open()
	if watches, _ := f.hub.Waiters(); waiting != 0 || streams != 0 || watches != 0 {
		f.t.Errorf("left behind: %d waits, %d streams, %d watches", waiting, streams, watches)
	}
}

func TestReaderThatLeaves(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x")
		r := f.follow(d.Links.Events)
		f.wantEvents(r, "retry status")
		if _, streams := f.server.Open(); streams != 1 {
			t.Errorf("%d streams", streams)
		}
		r.hangUp()
		f.nobody()
	})
}

// TestSlowReader: nothing is buffered for a reader that takes nothing; it is
// dropped, the others get theirs at once, and it can resume.
func TestSlowReader(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x", "Coatcheck-Timeout: 1h")
		slow := f.dial()
		defer slow.Close()
		io.WriteString(slow, "GET "+d.Links.Events+" HTTP/1.1\r\nHost: gateway\r\n\r\n")
		io.ReadFull(slow, make([]byte, 100)) // the beginning, then nothing more
		quick := f.follow(d.Links.Events)
		f.wantEvents(quick, "retry status")
		work := f.claim()
		f.send(work, progress(`"`+strings.Repeat("x", 100<<10)+`"`))
		begun := time.Now()
		f.wantEvents(quick, "status progress1")
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the quick one waited %v", took)
		}
		if _, streams := f.server.Open(); streams != 2 {
			t.Errorf("%d streams", streams)
		}
		time.Sleep(11 * time.Second)
		if _, streams := f.server.Open(); streams != 1 {
			t.Errorf("%d streams: the slow one is still there", streams)
		}
		f.wantEvents(f.follow(d.Links.Events), "retry status progress1")
	})
}
