package powercut_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	connections = 64
	rounds      = 5
	measured    = 3 * time.Second
	bodySize    = 1 << 10
	leastShare  = 0.5 // of the submits with local that fsync must reach
)

// What each durability costs: submits a second of one gateway with 64 connections,
// all on the same disk, in turn. The replica is on the same machine.
func TestDurabilityCost(t *testing.T) {
	asked(t)
	program := binary(t)
	everysec := []string{"--appendonly", "yes", "--appendfsync", "everysec"}
	setups := []struct {
		durability string
		server     []string
		replicas   int
	}{
		{"memory", nil, 0},
		{"local", everysec, 0},
		{"fsync", []string{"--appendonly", "yes", "--appendfsync", "always"}, 0},
		{"replicated(1)", everysec, 1},
	}
	rates := map[string][]float64{}
	for range rounds {
		for _, setup := range setups {
			t.Run(setup.durability, func(t *testing.T) {
				r := redistest.Start(t, setup.server...)
				for range setup.replicas {
					redistest.Start(t, append(setup.server, "--replicaof", "127.0.0.1", strings.TrimPrefix(r.URL, "redis://127.0.0.1:"))...)
				}
				got := rate(t, gateway(t, program, r.URL, "--durability", setup.durability))
				rates[setup.durability] = append(rates[setup.durability], got)
				t.Logf("%-13s %6.0f submits/s", setup.durability, got)
			})
		}
	}
	median := func(all []float64) float64 { return slices.Sorted(slices.Values(all))[len(all)/2] }
	// Each against local in the same round: a machine is not as fast all the time.
	share := func(durability string) float64 {
		var shares []float64
		for round, r := range rates[durability] {
			shares = append(shares, r/rates["local"][round])
		}
		return median(shares)
	}
	t.Logf("%d connections, bodies of %d bytes, medians of %d rounds of %v:", connections, bodySize, rounds, measured)
	for _, setup := range setups {
		t.Logf("%-13s %6.0f submits/s, %.2f × local", setup.durability, median(rates[setup.durability]), share(setup.durability))
	}
	if got := share("fsync"); got < leastShare {
		t.Errorf("fsync reaches %.2f of local, want %.2f", got, leastShare)
	}
}

func rate(t *testing.T, url string) float64 {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), measured)
	defer stop()
	var accepted atomic.Int64
	var all sync.WaitGroup
	body := strings.Repeat("x", bodySize)
	begun := time.Now()
	for range connections {
		all.Go(func() {
			for ctx.Err() == nil {
				if code, err := post(ctx, url, body); err == nil && code == 202 {
					accepted.Add(1)
				} else if ctx.Err() == nil {
					t.Errorf("%d, %v", code, err)
					return
				}
			}
		})
	}
	all.Wait()
	return float64(accepted.Load()) / time.Since(begun).Seconds()
}
