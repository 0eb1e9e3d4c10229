package broker_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Who settles a reply hears of it by the answer, and it is not published to it; others
// that wait for the request hear of it as ever.
func TestOwnWakesComeByTheAnswer(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		a := open(t, redis, func(o *broker.Options) { o.Name = "a" })
		b := open(t, redis, func(o *broker.Options) { o.Name = "b" })
		own, other := listen(t, a), listen(t, b)
		published := redis.Client.PSubscribe(t.Context(), "cc:wake:*a")
		defer published.Close()
		if _, err := published.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
		id := submit(t, a, "x").ID
		for _, gateway := range []*broker.Broker{a, b} {
			if _, err := gateway.Attach(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		d := claim(t, a)
		send(t, a, d, broker.WorkerReply{Type: "progress"}) // a hint
		send(t, a, d, broker.WorkerReply{Type: "final"})
		settle(t, a)
		for range 2 {
			for name, woken := range map[string]<-chan broker.Wake{"a": own, "b": other} {
				if w := <-woken; w.ID != id {
					t.Errorf("%s is woken for %v, want %v", name, w.ID, id)
				}
			}
		}
		if err := redis.Client.Publish(t.Context(), "cc:wake:a", "the next").Err(); err != nil {
			t.Fatal(err)
		}
		if m, err := published.ReceiveMessage(t.Context()); err != nil || m.Payload != "the next" {
			t.Errorf("published to who settles: %v, %v", m, err)
		}
	})
}

// An answer that was lost may have brought wake-ups: whoever waits looks again.
func TestLostAnswerMayHaveWoken(t *testing.T) {
	redis := redistest.Start(t)
	proxy := redis.Proxy(t)
	b := open(t, redis, func(o *broker.Options) { o.URL = proxy.URL })
	settled := bytes.ToLower([]byte("evalsha"))
	_, resumed := hear(t, b)
	<-resumed
	id := submit(t, b, "x").ID
	if _, err := b.Attach(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	send(t, b, claim(t, b), broker.WorkerReply{Type: "final"})
	proxy.Lose(func(sent []byte) bool {
		return bytes.Contains(sent, settled) && bytes.Contains(sent, []byte(":replies"))
	})
	if _, _, err := b.Settle(t.Context(), 0); err == nil {
		t.Fatal("the answer was not lost")
	}
	select {
	case <-resumed:
	case <-time.After(10 * time.Second):
		t.Error("nobody was told to look again")
	}
}

// The name of a gateway does not make the records large of those who wait by way of it,
// however long that of its host is.
func TestNameOfAProcessIsShort(t *testing.T) {
	redis := redistest.Start(t)
	b := open(t, redis, func(o *broker.Options) { o.Name = broker.NameOn(strings.Repeat("host.", 20)) })
	r := submit(t, b, "x", func(s *broker.Submission) { s.Await = &awaited{attach: true} })
	if how, err := redis.Client.ObjectEncoding(t.Context(), unfolded(t.Context(), t, redis.Client, r.ID.String())).Result(); err != nil || how != "listpack" {
		t.Errorf("the record is a %s, %v", how, err)
	}
}
