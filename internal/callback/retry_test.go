package callback

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/coatcheck/coatcheck/api/webhook"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// A receiver that never takes it is called eleven times over about a day, with
// the same event ID, and then no more. The times are Redis', not a process'.
func TestRetriesOverADay(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var receiver told
		b.net.receive("r.example", receiver.answer(t, 500))
		id := b.owe("http://r.example/")
		d := b.deliverer(b.Broker)
		for {
			for _, i := range b.owed(b.Broker) {
				d.deliver(t.Context(), i)
			}
			if !b.sleepUntilDue() {
				break
			}
		}
		calls := receiver.all()
		var gaps []time.Duration
		for i := 1; i < len(calls); i++ {
			gaps = append(gaps, calls[i].at.Sub(calls[i-1].at))
			if calls[i].header.Get("webhook-id") != calls[0].header.Get("webhook-id") || calls[i].body != calls[0].body {
				t.Error("an attempt differs from the first")
			}
		}
		if len(gaps) != len(delays) {
			t.Fatalf("%d attempts, want %d", len(calls), len(delays)+1)
		}
		for i, gap := range gaps {
			if gap < delays[i] || gap > delays[i]*12/10+time.Second {
				t.Errorf("attempt %d came after %v, want %v and up to a fifth more", i+2, gap, delays[i])
			}
		}
		if got, want := d.Stats(), (Stats{Failed: int64(len(delays)), GivenUp: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if _, _, err := b.Owed(t.Context(), broker.Intent{ID: id, Number: 1}); err != nil && !errors.Is(err, broker.ErrGone) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// What a receiver answers decides what comes of an attempt.
func TestVerdicts(t *testing.T) {
	tests := map[string]struct {
		receiver http.HandlerFunc // nil: nobody listens
		want     Stats
		after    time.Duration // of the next attempt, at least
		took     time.Duration // at most
	}{
		"200":    {status(200), Stats{Delivered: 1}, 0, 0},
		"202":    {status(202), Stats{Delivered: 1}, 0, 0},
		"400":    {status(400), Stats{Failed: 1}, 5 * time.Second, 0},
		"404":    {status(404), Stats{Failed: 1}, 5 * time.Second, 0},
		"410":    {status(410), Stats{GivenUp: 1}, 0, 0},
		"503":    {status(503), Stats{Failed: 1}, 5 * time.Second, 0},
		"no one": {nil, Stats{Failed: 1}, 5 * time.Second, 0},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://ok.example/", http.StatusTemporaryRedirect)
		}, Stats{Failed: 1}, 5 * time.Second, 0},
		"later": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(429)
		}, Stats{Failed: 1}, 2 * time.Minute, 0},
		"much later": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", time.Now().Add(100*time.Hour).UTC().Format(http.TimeFormat))
			w.WriteHeader(429)
		}, Stats{Failed: 1}, time.Hour, 0},
		"silence": {silent, Stats{Failed: 1}, 5 * time.Second, 15 * time.Second},
		"endless body": {func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1024)); err != nil {
					return
				}
			}
		}, Stats{Delivered: 1}, 0, 0},
		"endless headers": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", string(make([]byte, 0))+longText(maxHeaders+5000))
		}, Stats{Failed: 1}, 5 * time.Second, 0},
	}
	for name, test := range tests {
		bubble(t, func(t *testing.T, b *bench) {
			b.net.receive("ok.example", func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
			if test.receiver != nil {
				b.net.receive("r.example", test.receiver)
			}
			b.owe("http://r.example/")
			d := b.deliverer(b.Broker)
			begun := time.Now()
			for _, i := range b.owed(b.Broker) {
				d.deliver(t.Context(), i)
			}
			if took := time.Since(begun); took > test.took+time.Second {
				t.Errorf("%s: took %v", name, took)
			}
			if got := d.Stats(); got != test.want {
				t.Errorf("%s: %+v, want %+v", name, got, test.want)
			}
			due, err := b.Decide(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			if test.after == 0 {
				if !due.Next.IsZero() {
					t.Errorf("%s: tried again", name)
				}
				return
			}
			if in := time.Until(due.Next); in < test.after-10*time.Millisecond || in > test.after*12/10 {
				t.Errorf("%s: tried again in %v, want %v", name, in, test.after)
			}
		})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func longText(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'x'
	}
	return string(b)
}

// A gateway that dies between taking a callback and settling it loses nothing:
// another one is handed it after ten seconds, as the same event.
func TestKilledDeliverer(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var receiver told
		b.net.receive("r.example", receiver.answer(t, 200))
		b.owe("http://r.example/")
		dead := b.gateway("dead")
		if got := b.owed(dead); len(got) != 1 {
			t.Fatalf("%d owed", len(got))
		}
		dead.Close()
		stop := b.run(b.deliverer(b.Broker))
		for range 12 {
			time.Sleep(time.Second)
			if _, err := b.Reissue(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		if calls := receiver.all(); len(calls) != 1 {
			t.Errorf("told %d times, want once", len(calls))
		}
	})
}

// Who takes as long as may be to answer is told once, though others look out for what
// nobody keeps.
func TestSlowReceiverIsToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var receiver told
		answer := receiver.answer(t, 200)
		b.net.receive("r.example", func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(14 * time.Second)
			answer(w, r)
		})
		d := b.deliverer(b.Broker)
		stop := b.run(d)
		time.Sleep(time.Second)
		b.owe("http://r.example/") // is handed over
		b.owe("http://r.example/", func(s *broker.Submission) { s.Callback.Events = []string{"failed", "succeeded"}; s.OrderingKey = "k" })
		for range 20 {
			time.Sleep(time.Second)
			if _, err := b.Reissue(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Decide(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		if calls := receiver.all(); len(calls) != 2 {
			t.Errorf("told %d times, want of each once", len(calls))
		}
		if got, want := d.Stats(), (Stats{Delivered: 2}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// The record outlives its retention while a callback is owed, for the callback only.
func TestRetentionShorterThanRetry(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var receiver told
		b.net.receive("r.example", receiver.answer(t, 500, 200))
		id := b.owe("http://r.example/", func(s *broker.Submission) { s.Retention = time.Second })
		d := b.deliverer(b.Broker)
		for range 2 {
			for _, i := range b.owed(b.Broker) {
				d.deliver(t.Context(), i)
			}
			b.sleepUntilDue()
		}
		if got, want := d.Stats(), (Stats{Failed: 1, Delivered: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if _, err := b.Status(t.Context(), id); !errors.Is(err, broker.ErrGone) {
			t.Errorf("a client still sees it: %v", err)
		}
		calls := receiver.all()
		if len(calls) == 2 && calls[0].body != calls[1].body {
			t.Errorf("the second attempt differs:\n%s", cmp.Diff(calls[0].body, calls[1].body))
		}
	})
}

// What a callback tells of may be gone: deleted by the client, or cut.
func TestDropsWhatIsGone(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		id := b.owe("http://r.example/")
		if err := b.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		d := b.deliverer(b.Broker)
		for _, i := range b.owed(b.Broker) {
			d.deliver(t.Context(), i)
		}
		kept := b.owe("http://r.example/")
		b.owed(b.Broker)
		d.deliver(t.Context(), broker.Intent{Entry: "0-1", ID: kept, Type: "progress", Number: 1, Attempt: 1})
		if got, want := d.Stats(), (Stats{Dropped: 2}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// A receiver that does not answer keeps its own callbacks waiting, not those of
// others, and what waits for it counts as no attempt.
func TestSlowReceiver(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var slow, quick told
		answer := slow.answer(t, 200)
		b.net.receive("slow.example", func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(10 * time.Second)
			answer(w, r)
		})
		b.net.receive("quick.example", quick.answer(t, 200))
		for range 100 {
			b.owe("http://slow.example/")
		}
		b.owe("http://quick.example/")
		d := b.deliverer(b.Broker)
		begun := time.Now()
		stop := b.run(d)
		for len(slow.all()) < 100 && time.Since(begun) < time.Hour {
			time.Sleep(200 * time.Millisecond)
			if _, err := b.Decide(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if n := len(quick.all()); n != 1 && time.Since(begun) > 5*time.Second {
				t.Fatalf("the quick receiver was told %d times", n)
			}
		}
		stop()
		if took, ideal := time.Since(begun), 130*time.Second; took > 2*ideal {
			t.Errorf("100 deliveries of 10 s, 8 at a time, took %v", took)
		}
		got := d.Stats()
		if got.Delivered != 101 || got.Failed != 0 {
			t.Errorf("%+v", got)
		}
		if got.Held > 1500 {
			t.Errorf("%d were held back: that is asking too often", got.Held)
		}
	})
}

// A receiver that answers at once is told as much as there are slots for, and nothing
// of that is put back and handed out again.
func TestQuickReceiver(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var quick told
		answer := quick.answer(t, 200)
		b.net.receive("quick.example", func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(20 * time.Millisecond)
			answer(w, r)
		})
		for range 300 {
			b.owe("http://quick.example/")
		}
		d := b.deliverer(b.Broker)
		begun := time.Now()
		stop := b.run(d)
		for len(quick.all()) < 300 && time.Since(begun) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(begun)
		stop()
		if ideal := 300 / perQuickHost * 20 * time.Millisecond; took > 3*ideal {
			t.Errorf("300 deliveries of 20 ms, %d at a time, took %v", perQuickHost, took)
		}
		if got, want := d.Stats(), (Stats{Delivered: 300}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// At the end of a gateway, a delivery under way is put back as the same attempt.
func TestDrainPutsBack(t *testing.T) {
	for _, handedOver := range []bool{false, true} {
		bubble(t, func(t *testing.T, b *bench) {
			b.net.receive("r.example", silent)
			if !handedOver {
				b.owe("http://r.example/")
			}
			stop := b.run(b.deliverer(b.Broker))
			time.Sleep(time.Second)
			if handedOver {
				b.owe("http://r.example/")
				b.nothingWaits()
			}
			begun := time.Now()
			stop()
			if took := time.Since(begun); took > drainTime+claimBlock+time.Second {
				t.Errorf("the drain took %v", took)
			}
			b.sleepUntilDue()
			if got := b.owed(b.Broker); len(got) != 1 || got[0].Attempt != 1 {
				t.Errorf("put back: %+v", got)
			}
		})
	}
}

// An outcome that a gateway settles is told by it, and nobody asks Redis who owes what.
func TestTellsWhatIsHandedOver(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		var receiver told
		b.net.receive("r.example", receiver.answer(t, 204))
		d := b.deliverer(b.Broker)
		stop := b.run(d)
		time.Sleep(time.Second)
		var ids []string
		for range 3 {
			ids = append(ids, b.owe("http://r.example/").String())
		}
		b.nothingWaits()
		synctest.Wait()
		var got []string
		for _, c := range receiver.all() {
			id, _, _ := strings.Cut(c.header.Get(webhook.HeaderID), ".")
			got = append(got, id)
		}
		slices.Sort(ids)
		slices.Sort(got)
		if diff := cmp.Diff(ids, got); diff != "" || d.Stats().Delivered != 3 {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		time.Sleep(time.Second)
		if b.sleepUntilDue() {
			t.Error("something is due")
		}
		stop()
	})
}

func TestNext(t *testing.T) {
	for _, bad := range []string{"", "soon", "-5", "Mon, 02 Jan 2006 15:04:05 GMT", "99999999999999999999"} {
		if got := retryAfter(http.Header{"Retry-After": {bad}}); got != 0 {
			t.Errorf("Retry-After %q is %v", bad, got)
		}
	}
	if _, again := next(len(delays), 0); !again {
		t.Error("no attempt after the last delay")
	}
	if _, again := next(len(delays)+1, time.Minute); again {
		t.Error("an attempt too many")
	}
	if wait, again := next(0, 0); !again || wait < delays[0] {
		t.Errorf("attempt 0: %v, %v", wait, again)
	}
}
