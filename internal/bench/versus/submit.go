package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/internal/bench"
	"github.com/coatcheck/coatcheck/internal/bench/floor"
)

const (
	small = 1 << 10 // bytes of a body
	large = 64 << 10
)

// submitRow: how many submits a second, and what CPU time one takes. No worker
// runs: what it would take of the machine is the drain's.
func (l *lab) submitRow(ctx context.Context) error {
	setups := []setup{{kind: chi}, {kind: xadd, body: small}, {kind: limit}, {kind: product}, {kind: peer}}
	f, err := l.inTurn(ctx, "submit", setups, func(ctx context.Context, k *stack) (sample, error) {
		if k.kind == xadd {
			return k.added(ctx)
		}
		return k.load(ctx, bench.Options{Via: bench.Submit, Body: small})
	})
	if err != nil {
		return err
	}
	l.rates("submits/s, of chi without Redis", "chi", atLeast(0.45, ""), bound{}, f)
	l.rates("submits/s, of the limit", "limit", atLeast(0.75, ""), atLeast(0.9, ""), f)
	l.rates("submits/s, of the asynq peer", "peer", atLeast(1.2, ""), atLeast(1.4, ""), f)
	var ratios []float64
	for i, s := range f["coatcheck"] {
		ratios = append(ratios, serverCPU(s)/f["chi"][i].gateway)
	}
	l.bound("CPU of gateway and Redis per submit, of chi's per POST", atMost(2.6, ""), atMost(2.2, ""), median(ratios),
		"%.1f µs against %.1f; the limit %.1f, the peer %.1f", f.of("coatcheck", serverCPU), f.of("chi", gatewayCPU), f.of("limit", serverCPU), f.of("peer", serverCPU))
	return nil
}

// added measures raw XADDs, which are in a stream and nowhere else.
func (k *stack) added(ctx context.Context) (sample, error) {
	length := func() int { return k.redis.number("XLEN " + floor.XADDStream) }
	if err := k.gateway.until(ctx, "its first entry", func() bool { return length() > 0 }); err != nil {
		return sample{}, err
	}
	from, before, began := length(), k.read(), time.Now()
	select {
	case <-time.After(k.lab.duration / 2): // a body each stays in memory
	case <-ctx.Done():
		return sample{}, ctx.Err()
	}
	took := time.Since(began)
	n := float64(length() - from)
	s := k.read().minus(before, n)
	s.rate = n / took.Seconds()
	return s, nil
}

// commandsRow: what is sent to Redis at saturation. The gateway and the worker
// each talk through a tap.
func (l *lab) commandsRow(ctx context.Context) error {
	for _, c := range []struct {
		what string
		via  bench.Via
		most float64
		setup
	}{
		{"commands to Redis per submit", bench.Submit, 1.2, setup{kind: product, tapped: true, what: "commands"}},
		{"commands to Redis per SSE exchange, worker's included", bench.SSE, 6, setup{kind: product, tapped: true, worker: true, what: "commands"}},
	} {
		s, err := l.once(ctx, c.setup, func(ctx context.Context, k *stack) (sample, error) {
			return k.load(ctx, bench.Options{Via: c.via, Body: small})
		})
		if err != nil {
			return err
		}
		l.bound(c.what, atMost(c.most, ""), bound{}, s.commands(), "%s", s.commandsText())
	}
	return nil
}

// commands is how many were sent.
func (s sample) commands() (total float64) {
	for _, n := range s.sent {
		total += n
	}
	return total
}

// commandsText names those that matter, the most frequent first.
func (s sample) commandsText() string {
	var parts []string
	for _, name := range slices.SortedFunc(maps.Keys(s.sent), func(a, b string) int { return cmp.Compare(s.sent[b], s.sent[a]) }) {
		if s.sent[name] >= s.commands()/100 {
			parts = append(parts, fmt.Sprintf("%s %.2f", name, s.sent[name]))
		}
	}
	return strings.Join(parts, ", ")
}

// largeRow: bodies of 64 KiB, against a limit that reads them as most do.
func (l *lab) largeRow(ctx context.Context) error {
	f, err := l.inTurn(ctx, "64 KiB", []setup{{kind: limit, readAll: true}, {kind: limit, name: "limit, sized"}, {kind: product}},
		func(ctx context.Context, k *stack) (sample, error) {
			return k.load(ctx, bench.Options{Via: bench.Submit, Body: large})
		})
	if err != nil {
		return err
	}
	l.bound("64 KiB bodies: CPU of gateway and Redis per submit, of the limit with io.ReadAll", atMost(0.9, ""), bound{}, f.ratio("coatcheck", "limit", serverCPU),
		"%.1f µs against %.1f (%.1f with sized reads); the gateways alone %.1f against %.1f", f.of("coatcheck", serverCPU), f.of("limit", serverCPU), f.of("limit, sized", serverCPU),
		f.of("coatcheck", gatewayCPU), f.of("limit", gatewayCPU))
	return nil
}
