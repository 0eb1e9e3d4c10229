package broker_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2/server"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// A message that is under way when the subscription is probed for life is a message:
// lost, a worker would never hear that its request was canceled.
func TestMessageMeetsProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini, dial := redistest.Pipe(t)
		b, err := broker.Open(t.Context(), broker.Options{
			URL: "redis://pipe:1", Name: "a", Dial: dial, Services: map[string]broker.ServiceConfig{"echo": {}}, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		id := correlation.Keyring{correlation.NewKey()}.Mint(time.Now(), 0, "").String()
		var probes atomic.Int32
		mini.Hook(func(_ *server.Peer, cmd string, _ ...string) bool {
			if strings.EqualFold(cmd, "PING") && probes.Add(1) == 1 {
				mini.Publish("cc:wake:a", id)
				time.Sleep(time.Millisecond) // it is on its way before the answer is
			}
			return false
		})
		var woken []string
		ctx, stop := context.WithCancel(t.Context())
		var done sync.WaitGroup
		connected := 0
		done.Go(func() {
			b.Wakes(ctx, func(w []broker.Wake) { woken = append(woken, w[0].ID.String()) }, func() { connected++ })
		})
		time.Sleep(20 * time.Second) // several silences
		stop()
		done.Wait()
		if !slices.Equal(woken, []string{id}) || connected != 1 || probes.Load() < 3 {
			t.Errorf("woken for %v, connected %d times, probed %d times", woken, connected, probes.Load())
		}
	})
}
