package broker_test

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Of whom the first answer was lost, and who finds the service full the next time, nobody
// knows that nothing will run: what was sent first may arrive last, and find room.
func TestFullAfterALostAnswer(t *testing.T) {
	redis := redistest.Start(t)
	proxy := redis.Proxy(t)
	b := open(t, redis, func(o *broker.Options) {
		o.URL = proxy.URL
		o.Services = map[string]broker.ServiceConfig{"echo": {MaxQueued: 1}}
	})
	dead := submit(t, b, "dead").ID
	send(t, b, claim(t, b), broker.WorkerReply{Type: "failed"})
	settle(t, b)
	submit(t, b, "for whom there is room")
	for name, call := range map[string]func(mark string) error{
		"submit": func(mark string) error {
			_, _, err := b.Submit(t.Context(), broker.Submission{Service: "echo", Body: []byte(mark)})
			return err
		},
		"submit of a line": func(mark string) error {
			_, _, err := b.Submit(t.Context(), broker.Submission{Service: "echo", Body: []byte(mark), OrderingKey: "a"})
			return err
		},
		"retry": func(string) error {
			_, _, err := b.Retry(t.Context(), dead)
			return err
		},
	} {
		if err := call("refused"); !errors.Is(err, broker.ErrQueueFull) {
			t.Errorf("%s: %v", name, err)
		}
		var lost atomic.Bool
		proxy.Lose(func(sent []byte) bool {
			retries := bytes.Count(sent, []byte(":request:")) == 2 // it has two keys
			return (retries || bytes.Contains(sent, []byte("doubted"))) && !lost.Swap(true)
		})
		if err := call("doubted"); !errors.Is(err, broker.ErrUnknownOutcome) || errors.Is(err, broker.ErrQueueFull) {
			t.Errorf("%s, once its answer was lost: %v", name, err)
		}
		proxy.Heal()
	}
}
