package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A reply by token is the reply of a worker like any other.
func TestAnswer(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis, func(o *broker.Options) { o.Partitions = 3 })
		r := submit(t, b, "body")
		d := claim(t, b)
		for _, reply := range []broker.WorkerReply{
			{Type: "heartbeat"},
			{Type: "progress", ContentType: "text/plain", Body: []byte("half"), Seq: 1},
			{Type: "final", ContentType: "a/b", Body: []byte{0, 0xff}, StatusCode: 201, Seq: 2},
		} {
			id, now, err := b.Answer(t.Context(), d.Token, reply)
			if id != r.ID || now.Terminal() || err != nil {
				t.Fatalf("%s: %s %s, %v", reply.Type, id, now, err)
			}
			settle(t, b)
		}
		got, err := b.Reply(t.Context(), r.ID)
		if err != nil || got.Status != broker.Succeeded || got.Events != 2 || got.Reply.ContentType != "a/b" ||
			got.Reply.StatusCode != 201 || !bytes.Equal(got.Reply.Body, []byte{0, 0xff}) {
			t.Errorf("%+v, %+v, %v", got, got.Reply, err)
		}
	})
}

// Who holds the claim no more hears why.
func TestAnswerToALostClaim(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		beat := broker.WorkerReply{Type: "heartbeat"}
		for name, c := range map[string]struct {
			lose func(broker.Record, broker.Delivery)
			err  error
			now  broker.Status
		}{
			"canceled": {func(r broker.Record, _ broker.Delivery) { b.Cancel(t.Context(), r.ID) }, broker.ErrClaimLost, broker.Canceled},
			"answered": {func(_ broker.Record, d broker.Delivery) { send(t, b, d, broker.WorkerReply{Type: "final"}) }, broker.ErrClaimLost, broker.Succeeded},
			"asked for another attempt": {func(_ broker.Record, d broker.Delivery) {
				send(t, b, d, broker.WorkerReply{Type: "retry", Delay: time.Minute})
			}, broker.ErrClaimLost, broker.Scheduled},
			"given to another worker": {func(_ broker.Record, d broker.Delivery) {
				send(t, b, d, broker.WorkerReply{Type: "retry", Delay: time.Millisecond})
				settle(t, b)
				claim(t, b)
			}, broker.ErrClaimLost, broker.Running},
			"forgotten": {func(r broker.Record, _ broker.Delivery) { b.Delete(t.Context(), r.ID) }, broker.ErrGone, ""},
		} {
			r := submit(t, b, "x")
			d := claim(t, b)
			c.lose(r, d)
			settle(t, b)
			before := status0(t, b, r.ID)
			if _, now, err := b.Answer(t.Context(), d.Token, beat); !errors.Is(err, c.err) || now != c.now {
				t.Errorf("%s: %s, %v", name, now, err)
			}
			if kinds := settle(t, b); len(kinds) != 0 || status0(t, b, r.ID) != before {
				t.Errorf("%s: it was taken all the same: %v", name, kinds)
			}
		}
	})
}

func status0(t *testing.T, b *broker.Broker, id correlation.ID) broker.Status {
	t.Helper()
	r, err := b.Status(t.Context(), id)
	if err != nil && !errors.Is(err, broker.ErrGone) {
		t.Fatal(err)
	}
	return r.Status
}

// After its deadline and its run timeout a claim is lost although nobody has
// decided so yet.
func TestAnswerAfterItsTime(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		for _, set := range []func(*broker.Submission){
			func(s *broker.Submission) { s.Timeout = 50 * time.Millisecond },
			func(s *broker.Submission) { s.RunTimeout = 50 * time.Millisecond },
		} {
			submit(t, b, "x", set)
			d := claim(t, b)
			var now broker.Status
			var err error
			for late := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(late); {
				_, now, err = b.Answer(t.Context(), d.Token, broker.WorkerReply{Type: "heartbeat"})
			}
			if !errors.Is(err, broker.ErrClaimLost) || now != broker.TimedOut {
				t.Errorf("%s, %v", now, err)
			}
			settle(t, b)
		}
	})
}

func TestAnswerToNoClaim(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		submit(t, b, "x")
		token := claim(t, b).Token
		id, rest, _ := strings.Cut(token, ".")
		for _, wrong := range []string{
			"", "x", id, token + "0", token + ".", token[:len(token)-1], " " + token, token + "\n", strings.ToUpper(token),
			id + ".0" + rest[1:], id + ".-1" + rest[1:], id + ".1.", id + ".1.zz", strings.ReplaceAll(token, "-", "0"),
			strings.Repeat("a", 10_000), "00000000-0000-0000-0000-000000000000.1.ab",
		} {
			_, _, err := b.Answer(t.Context(), wrong, broker.WorkerReply{Type: "final"})
			if !errors.Is(err, broker.ErrUnknownClaim) {
				t.Errorf("%.60q: %v", wrong, err)
			}
		}
		if _, _, err := b.Answer(t.Context(), token, broker.WorkerReply{Type: "partial", Body: make([]byte, 256<<10+1)}); !errors.Is(err, broker.ErrEventTooLarge) {
			t.Errorf("an event that is too large: %v", err)
		}
		strange := correlation.Keyring{correlation.NewKey()}.Mint(time.Now(), 0, "acme").String()
		if _, _, err := b.Answer(t.Context(), strange+".1.ab", broker.WorkerReply{Type: "final"}); !errors.Is(err, broker.ErrGone) {
			t.Errorf("nobody knows it: %v", err)
		}
		if kinds := settle(t, b); len(kinds) != 0 {
			t.Errorf("taken: %v", kinds)
		}
	})
}

// A service is known to whoever announced it at once.
func TestAnnounceIsKnownAtOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		b := open(t, redis)
		if err := b.Announce(t.Context(), map[string]broker.Announcement{"fresh": {}}); err != nil {
			t.Fatal(err)
		}
		if known, err := b.KnowsService(t.Context(), "fresh"); !known || err != nil || !slices.Contains(b.Services(), "fresh") {
			t.Errorf("%v, %v", known, err)
		}
	})
}

// Whoever hears of one service of an announcement has heard of all of it.
func TestAnnounceIsAllOrNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, redis *redistest.Redis) {
		worker := open(t, redis)
		services := map[string]broker.Announcement{}
		for n := range 40 {
			services[fmt.Sprintf("service-%d", n)] = broker.Announcement{Lease: time.Duration(n%2) * time.Second}
		}
		done := make(chan error, 1)
		go func() { done <- worker.Announce(t.Context(), services) }()
		for heard := 0; heard == 0; {
			for _, name := range redis.Client.HKeys(t.Context(), "cc:services").Val() {
				if _, ok := services[name]; ok {
					heard++
				}
			}
			if heard != 0 && heard != len(services) {
				t.Errorf("heard of %d of %d", heard, len(services))
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
