package scale_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Intervals of upkeep, as the steward has them.
const (
	decides = 5 // a second
	pursues = 5
	lapses  = 1
	sweeps  = 0.2
	prunes  = 0.2
)

// site is a redis-server and a broker on it, of which nothing runs by itself.
type site struct {
	*testing.T
	redis    *redistest.Redis
	broker   *broker.Broker
	services []string

	mu       sync.Mutex       // guards the rest
	ids      []correlation.ID // of all, in the order in which they were accepted, about
	answered int              // of these, from the first on
}

func open(t *testing.T, o broker.Options, services ...string) *site {
	t.Helper()
	s := &site{T: t, redis: redistest.Start(t, "--latency-tracking", "no", "--slowlog-log-slower-than", "-1"), services: services}
	o.URL, o.Logger, o.Services = s.redis.URL, slog.New(slog.DiscardHandler), map[string]broker.ServiceConfig{}
	o.Defaults = broker.ServiceConfig{MaxQueued: 1 << 30, Timeout: 12 * time.Hour, Lease: time.Hour}
	for _, name := range services {
		o.Services[name] = broker.ServiceConfig{}
	}
	var err error
	if s.broker, err = broker.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.broker.Close() })
	return s
}

// of says how often calls are measured, of which medians are shown, how many each time,
// and by how many callers at once.
func of() (rounds, calls, callers int) {
	if *full {
		return 3, 2000, 32
	}
	return 1, 100, 1
}

// together has n calls made by the callers.
func (s *site) together(n int, call func(i int) error) {
	s.Helper()
	var all sync.WaitGroup
	_, _, callers := of()
	for c := range callers {
		all.Go(func() {
			for i := c; i < n; i += callers {
				if err := call(i); err != nil {
					s.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

func (s *site) submit(service string) error {
	r, _, err := s.broker.Submit(s.Context(), broker.Submission{Tenant: broker.DefaultTenant, Service: service, Body: []byte("sixty-four bytes, which is little, and more than nothing at all..")})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, r.ID)
	return nil
}

// any is a request to look at: every other one is pending while any is, however many there
// are, since the two cost not the same.
func (s *site) any(i int) correlation.ID {
	if pending := s.ids[s.answered:]; i%2 == 0 && len(pending) > 0 {
		return pending[rand.IntN(len(pending))]
	}
	return s.ids[rand.IntN(s.answered)]
}

// answer claims n requests that are pending, and has a worker answer them.
func (s *site) answer(n int) {
	s.Helper()
	for n > 0 {
		d, err := s.broker.Claim(s.Context(), "worker", s.services, max(min(n, 1000), len(s.services)), 10*time.Millisecond)
		if err != nil {
			s.Fatal(err)
		}
		n -= len(d)
		s.answered += len(d)
		s.together(len(d), func(i int) error {
			return s.broker.Send(s.Context(), d[i], broker.WorkerReply{Type: "final", Body: d[i].Body})
		})
	}
}

func (s *site) settle() {
	s.Helper()
	for p := range s.broker.Partitions() {
		for more := true; more; {
			var err error
			if _, more, err = s.broker.Settle(s.Context(), p); err != nil {
				s.Fatal(err)
			}
		}
	}
}

// fill adds n pending requests and n answered ones.
func (s *site) fill(n int) {
	s.together(2*n, func(i int) error { return s.submit(s.services[i%len(s.services)]) })
	for n > 0 {
		some := min(n, 5000)
		s.answer(some)
		s.settle()
		n -= some
	}
}

// measure measures every call. What it submits it answers, so that as much is pending
// afterwards as was before.
func (s *site) measure(n int) line {
	s.Helper()
	rounds, calls, _ := of()
	l := line{n: n}
	var submits, settles, statuses, lists, samples, upkeeps, floors []cost
	for range rounds {
		floors = append(floors, s.floor())
		submits = append(submits, s.cost(calls, func(i int) error { return s.submit(s.services[i%len(s.services)]) }))
		s.answer(calls)
		settles = append(settles, s.once(calls, s.settle))
		statuses = append(statuses, s.cost(calls, func(i int) error {
			_, err := s.broker.Status(s.Context(), s.any(i))
			return err
		}))
		lists = append(lists, s.once(1, func() {
			if _, err := s.broker.List(s.Context(), broker.Query{Tenant: broker.DefaultTenant, Limit: 50}); err != nil {
				s.Error(err)
			}
		}))
		upkeeps = append(upkeeps, s.upkeep())
		floors = append(floors, s.floor())
	}
	for round := range rounds {
		if round > 0 {
			<-time.After(1100 * time.Millisecond) // a sample is a second old at most
		}
		samples = append(samples, s.once(1, func() {
			if _, err := s.broker.Queue(s.Context(), s.services[0]); err != nil {
				s.Error(err)
			}
		}))
	}
	l.submit, l.settle, l.status, l.list, l.sample = median(submits), median(settles), median(statuses), median(lists), median(samples)
	l.upkeep, l.floor = median(upkeeps).cpu, median(floors).cpu
	return l
}

// floor is what a script without data takes, which hangs on nothing but the core: some ms.
func (s *site) floor() cost {
	s.Helper()
	return s.once(1, func() {
		err := s.redis.Client.Eval(s.Context(), "local t = {} for i = 1, 20000 do t[i % 100 + 1] = 'x' .. i end return #t", nil).Err()
		if err != nil {
			s.Error(err)
		}
	})
}

// upkeep is what a second of it costs: each round of the stewards once, counted as
// often as they make it.
func (s *site) upkeep() cost {
	s.Helper()
	sum := cost{}
	walk := broker.Walk(nil)
	ctx := s.Context()
	each := func(perSecond float64, do func(p int) error) {
		c := s.once(1, func() {
			for p := range s.broker.Partitions() {
				if err := do(p); err != nil {
					s.Error(err)
				}
			}
		})
		sum.cpu += perSecond * c.cpu
		sum.commands += perSecond * c.commands
	}
	each(decides, func(p int) error { _, err := s.broker.Decide(ctx, p); return err })
	each(pursues, func(p int) error { _, err := s.broker.Pursue(ctx, p); return err })
	each(lapses, func(p int) error {
		services, err := s.broker.Busy(ctx, p, false)
		for _, service := range services {
			if _, err := s.broker.Lapse(ctx, p, service); err != nil {
				return err
			}
		}
		if err == nil {
			_, err = s.broker.Reissue(ctx, p)
		}
		return err
	})
	each(lapses, func(p int) error { _, err := s.broker.Regulated(ctx, p); return err })
	each(sweeps, func(p int) error {
		services, err := s.broker.Busy(ctx, p, true)
		for _, service := range services {
			if _, err := s.broker.Lapse(ctx, p, service); err != nil {
				return err
			}
			if _, _, err := s.broker.Sweep(ctx, p, service, ""); err != nil {
				return err
			}
		}
		return err
	})
	each(prunes, func(p int) (err error) { walk, err = s.broker.Prune(ctx, p, walk); return err })
	each(1.0/60, func(p int) error {
		if _, err := s.broker.Tidy(ctx, p); err != nil {
			return err
		}
		_, err := s.broker.Retire(ctx, p, time.Hour)
		return err
	})
	return sum
}

// cost is what one call takes.
type cost struct {
	cpu      float64 // µs of Redis
	commands float64 // that Redis ran, also inside of scripts
	p50      float64 // ms, of the caller
}

// once measures what does n calls' work.
func (s *site) once(n int, do func()) cost {
	s.Helper()
	cpu, commands := s.spent()
	do()
	after, ran := s.spent()
	return cost{cpu: (after - cpu) / float64(n), commands: (ran - commands) / float64(n)}
}

// cost measures n calls by the callers.
func (s *site) cost(n int, call func(i int) error) cost {
	s.Helper()
	took := make([]float64, n)
	c := s.once(n, func() {
		s.together(n, func(i int) error {
			begun := time.Now()
			defer func() { took[i] = time.Since(begun).Seconds() * 1000 }()
			return call(i)
		})
	})
	slices.Sort(took)
	c.p50 = took[n/2]
	return c
}

// spent is what Redis has used so far, in µs, and how many commands it ran.
func (s *site) spent() (cpu, commands float64) {
	s.Helper()
	text, err := s.redis.Client.Info(context.WithoutCancel(s.Context()), "cpu", "commandstats").Result()
	if err != nil {
		s.Fatal(err)
	}
	for field := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(field), ":")
		switch {
		case name == "used_cpu_user_main_thread" || name == "used_cpu_sys_main_thread":
			seconds, _ := strconv.ParseFloat(value, 64)
			cpu += seconds * 1e6
		case strings.HasPrefix(name, "cmdstat_") && name != "cmdstat_info":
			calls, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
			n, _ := strconv.ParseFloat(calls, 64)
			commands += n
		}
	}
	return cpu, commands
}

func (s *site) mebibytes() float64 {
	text, _ := s.redis.Client.Info(s.Context(), "memory").Result()
	_, rest, _ := strings.Cut(text, "used_memory:")
	digits, _, _ := strings.Cut(rest, "\r")
	n, _ := strconv.ParseFloat(digits, 64)
	return n / (1 << 20)
}

// median is that of each figure.
func median(all []cost) cost {
	of := func(f func(cost) float64) float64 {
		values := make([]float64, len(all))
		for i, c := range all {
			values[i] = f(c)
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return cost{of(func(c cost) float64 { return c.cpu }), of(func(c cost) float64 { return c.commands }), of(func(c cost) float64 { return c.p50 })}
}
