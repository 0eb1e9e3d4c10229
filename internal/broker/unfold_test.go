package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A brief record of which a hash is made expires when it did before, also in its last
// millisecond, of which Redis says that none is left.
func TestUnfoldedExpiresAsBefore(t *testing.T) {
	for left, want := range map[time.Duration]time.Duration{time.Minute: time.Minute, 500 * time.Microsecond: 0} {
		synctest.Test(t, func(t *testing.T) {
			mini, dial := redistest.Pipe(t)
			b := open(t, &redistest.Redis{URL: "redis://pipe:1"}, func(o *broker.Options) { o.Dial = dial })
			defer b.Close()
			id := submit(t, b, "x").ID
			key := "cc:{0}:request:" + id.String()
			held := reserve(t, b)
			entrust(t, b, held)
			send(t, b, held, broker.WorkerReply{Type: "final", Body: make([]byte, 100)})
			settle(t, b)
			mini.SetTTL(key, left)
			if err := broker.Unfold(t.Context(), b, id); err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{key, "cc:{0}:reply:" + held.ID} {
				if got := mini.TTL(key); got != want || mini.Exists(key) != (want > 0) {
					t.Errorf("%v before its end, %s is there: %t, and expires in %v", left, key, mini.Exists(key), got)
				}
			}
		})
	}
}
