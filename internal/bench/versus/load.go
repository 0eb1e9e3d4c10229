package main

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"github.com/coatcheck/coatcheck/internal/bench"
)

const warmup = time.Second

// sample is what one load found. CPU times are µs for one request, bytes are those
// that Redis received and sent for one.
type sample struct {
	rate, p50, p99                    float64
	gateway, redis, worker, generator float64
	in, out                           float64
	others                            float64 // share of the cores that other processes of the machine took
	bad                               int     // requests that were lost, doubled, wrong, out of order, refused or failed, and errors
	sent                              map[string]float64
}

// load makes a load on a stack and reads what it costs, within the same window.
func (k *stack) load(ctx context.Context, o bench.Options) (sample, error) {
	var ends [2]reading
	o = k.options(o)
	if o.Duration == 0 {
		o.Duration = k.lab.duration
	}
	if o.Requests == 0 {
		o.Warmup = warmup
	}
	if o.Clients == 0 {
		o.Clients = k.lab.clients
	}
	profiled := make(chan error, 1)
	o.Measuring = func(begins bool) {
		if begins {
			ends[0] = k.read()
			if k.admin != "" && o.Requests == 0 {
				go func() { profiled <- k.profile(string(o.Via), o.Duration) }()
			} else {
				profiled <- nil
			}
		} else {
			ends[1] = k.read()
		}
	}
	r, err := bench.Run(ctx, o)
	if err == nil {
		err = <-profiled
	}
	if err != nil {
		return sample{}, err
	}
	if r.Requests == 0 {
		return sample{}, errors.New("no request was done in the measured time: " + r.FirstError)
	}
	s := ends[1].minus(ends[0], float64(r.Requests))
	s.rate, s.generator, s.p50, s.p99 = r.Rate, r.GeneratorCPU, r.Accept.P50, r.Accept.P99
	if r.Reply != nil {
		s.p50, s.p99 = r.Reply.P50, r.Reply.P99
	}
	s.bad = r.Lost + r.Doubled + r.Wrong + r.OutOfOrder + r.Refused + r.Failed + r.Errors
	if k.kind == product {
		k.lab.clean(k.what, s.bad)
	}
	if s.bad > 0 {
		k.lab.say("%s by %s: of %d requests %d lost, %d doubled, %d wrong, %d out of order, %d refused, %d failed, %d errors %s",
			k.title(), o.Via, r.Sent, r.Lost, r.Doubled, r.Wrong, r.OutOfOrder, r.Refused, r.Failed, r.Errors, r.FirstError)
	}
	return s, nil
}

// reading is what the processes have used until an instant.
type reading struct {
	at                           time.Time
	gateway, redis, worker, self time.Duration
	all                          time.Duration // by everything on the machine
	in, out                      int64
	sent                         map[string]int
}

func (k *stack) read() (r reading) {
	r.at, r.all, r.self = time.Now(), machineCPU(), selfCPU()
	r.gateway, r.worker = k.gateway.cpu(), k.worker.cpu()
	if k.redis != nil {
		r.redis = k.redis.cpu()
		if info, err := k.redis.info(); err == nil {
			r.in, r.out = info["total_net_input_bytes"], info["total_net_output_bytes"]
		}
	}
	r.sent = k.tap.counts()
	for name, n := range k.workerTap.counts() {
		r.sent[name] += n
	}
	return r
}

// minus is what was used between two readings, for each of n requests.
func (r reading) minus(before reading, n float64) (s sample) {
	micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) / n }
	s.gateway, s.redis, s.worker = micros(r.gateway-before.gateway), micros(r.redis-before.redis), micros(r.worker-before.worker)
	s.in, s.out = float64(r.in-before.in)/n, float64(r.out-before.out)/n
	own := (r.gateway - before.gateway) + (r.redis - before.redis) + (r.worker - before.worker) + (r.self - before.self)
	s.others = max(0, float64(r.all-before.all-own)/float64(r.at.Sub(before.at))/float64(runtime.NumCPU()))
	if r.sent != nil {
		s.sent = map[string]float64{}
		for name, count := range r.sent {
			if d := count - before.sent[name]; d > 0 {
				s.sent[name] = float64(d) / n
			}
		}
	}
	return s
}

// found are the samples of a row, by title, one a round.
type found map[string][]sample

// inTurn measures each setup once a round, each time on a stack of its own.
func (l *lab) inTurn(ctx context.Context, what string, setups []setup, measure func(context.Context, *stack) (sample, error)) (found, error) {
	all := found{}
	for round := range l.rounds {
		for _, s := range setups {
			s.what = what
			one, err := l.once(ctx, s, measure)
			if err != nil {
				return nil, err
			}
			all[s.title()] = append(all[s.title()], one)
			l.say("  %s, round %d: %-12s %10.1f/s", what, round+1, s.title(), one.rate)
		}
	}
	for _, s := range setups {
		l.figures = append(l.figures, figure{what, s.title(), all.median(s.title())})
	}
	return all, nil
}

func (l *lab) once(ctx context.Context, s setup, measure func(context.Context, *stack) (sample, error)) (sample, error) {
	k, err := l.up(ctx, s)
	if err != nil {
		return sample{}, err
	}
	defer k.stop()
	return measure(ctx, k)
}

// of is the median of one number of the samples of a setup.
func (f found) of(title string, number func(sample) float64) float64 {
	values := make([]float64, 0, len(f[title]))
	for _, s := range f[title] {
		values = append(values, number(s))
	}
	return median(values)
}

// ratio compares two setups within each round, and is the median of that.
func (f found) ratio(a, b string, number func(sample) float64) float64 {
	var values []float64
	for i := range f[a] {
		values = append(values, number(f[a][i])/number(f[b][i]))
	}
	return median(values)
}

// median is a sample of medians.
func (f found) median(title string) sample {
	return sample{
		rate: f.of(title, rate), p50: f.of(title, p50), p99: f.of(title, p99),
		gateway: f.of(title, gatewayCPU), redis: f.of(title, func(s sample) float64 { return s.redis }),
		worker: f.of(title, func(s sample) float64 { return s.worker }), generator: f.of(title, func(s sample) float64 { return s.generator }),
		others: f.of(title, func(s sample) float64 { return s.others }),
		in:     f.of(title, func(s sample) float64 { return s.in }), out: f.of(title, func(s sample) float64 { return s.out }),
	}
}

// carried is how many requests a second the machine's cores carry, by the CPU time
// that one takes of all processes. What else runs on the machine weighs less on it
// than on the rate.
func (s sample) carried() float64 {
	used := s.gateway + s.redis + s.worker + s.generator
	if used == 0 {
		return 0
	}
	return float64(runtime.NumCPU()) * 1e6 / used
}

func rate(s sample) float64       { return s.rate }
func p50(s sample) float64        { return s.p50 }
func p99(s sample) float64        { return s.p99 }
func gatewayCPU(s sample) float64 { return s.gateway }
func serverCPU(s sample) float64  { return s.gateway + s.redis }

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}
