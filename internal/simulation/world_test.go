package simulation_test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// config is what holds for requests: short, so that clocks run out within two hundred
// steps; kept for longer than a command can be late.
var config = broker.ServiceConfig{
	Timeout: 4 * time.Second, StartTimeout: 2 * time.Second, RunTimeout: 1500 * time.Millisecond,
	Lease: 700 * time.Millisecond, MaxAttempts: 3, KeyConcurrency: 2, Backoff: 100 * time.Millisecond, Retention: 6 * time.Second,
}

// services are all that there are: a scatter goes to the first two or three, of "left" two
// requests run at once, those to "same" share their runs, and "slow" has but one clock,
// which runs for long.
var (
	services     = map[string]broker.ServiceConfig{"echo": config, "left": limited(config), "same": sharing(config), "slow": patient(config)}
	serviceNames = slices.Sorted(maps.Keys(services))
	tenants      = []string{"", "acme"} // as Redis has them: the first is broker.DefaultTenant
)

func limited(c broker.ServiceConfig) broker.ServiceConfig {
	c.Concurrency = 2
	return c
}

func sharing(c broker.ServiceConfig) broker.ServiceConfig {
	c.Coalesce, c.CacheTTL = true, 800*time.Millisecond
	return c
}

func patient(c broker.ServiceConfig) broker.ServiceConfig {
	c.Timeout, c.StartTimeout, c.RunTimeout = 8*time.Second, 0, 0 // beyond the first look at its group
	return c
}

// world is one seed: everything that happens in it is drawn from that, in one
// goroutine, and whatever else runs waits for it.
type world struct {
	t     *testing.T
	draw  *rand.Rand
	redis *store
	begun time.Time

	mu    sync.Mutex // guards links and came
	links []*link
	came  int
	sent  chan struct{} // capacity 1; links send, the world receives

	gates    []*gate
	running  sync.WaitGroup // everything that was started
	calls    []*call        // under way, in the order in which they began
	requests []*request
	batches  []*batch
	records  []*record          // in the order in which they were found
	named    map[string]*record // by name
	workers  []*worker
	flying   []*reply          // sent by a worker, and not taken by Redis
	told     map[string]*reply // by body: those that workers told gateways
	noted    map[string]bool   // entries of those
	late     map[string]bool   // body of a reply → whether a clock was over when Redis took it: it is to change nothing

	partitions []string         // prefixes of their keys
	halts      map[string]*halt // by service
	added      map[string]int   // prefix and service → requests that came to the stream, but for those that no worker had there

	doing, by string      // what Redis does, and for which gateway; "" for others
	published [][2]string // meanwhile: channel and message

	faults   bool // anything may break
	calling  bool // somebody wants callbacks
	pulling  bool // workers ask gateways for work
	batching bool // requests are submitted in batches
	lining   bool // there are tenants and priorities, so there are lines
	pausing  bool // services are paused and resumed
	steps    int
	number   int // of the latest call
	trace    bytes.Buffer
	silent   bool  // nobody wants to see the trace
	broken   error // the first thing that must not be
}

// trace lives a seed for so many steps, and to its end. It tells all that happened, and
// what must not be.
func trace(t *testing.T, redis *store, seed uint64, steps int) (trace []byte, broken error) {
	w := live(t, redis, seed, steps, seed%*heals == 0, false)
	return w.trace.Bytes(), w.broken
}

func live(t *testing.T, redis *store, seed uint64, steps int, heals, silent bool) (w *world) {
	synctest.Test(t, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		w = &world{
			t: t, draw: rand.New(rand.NewPCG(seed, 0)), redis: redis, begun: time.Now(), silent: silent,
			sent: make(chan struct{}, 1), named: map[string]*record{}, halts: map[string]*halt{}, added: map[string]int{}, late: map[string]bool{}, told: map[string]*reply{}, noted: map[string]bool{}, gates: make([]*gate, 2),
		}
		redis.clear()
		w.faults, w.lining, w.pausing = w.draw.IntN(4) > 0, w.draw.IntN(2) == 0, w.draw.IntN(3) == 0
		w.batching, w.pulling = w.draw.IntN(3) == 0, w.draw.IntN(on(w.pausing, -2)+4) == 0
		w.partitions = make([]string, 1+on(w.draw.IntN(4) == 0, 1))
		for i := range w.gates {
			w.begin(i)
		}
		for i, tag := range strings.Split(redis.HGet("cc:config", "tags"), ",") {
			w.partitions[i] = "cc:{" + tag + "}:"
		}
		for range 1 + w.draw.IntN(3) {
			w.workers = append(w.workers, &worker{name: fmt.Sprintf("w%d", len(w.workers))})
		}
		for w.steps < steps && w.broken == nil {
			w.step()
			w.steps++
		}
		if heals && w.broken == nil {
			w.heal()
		}
		w.end()
		if heals && w.broken == nil {
			w.forgotten()
		}
	})
	return w
}

// all are the links of which something may come.
func (w *world) all() []*link {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links = slices.DeleteFunc(w.links, (*link).over)
	return w.links
}

// busy are the links with which the world may do something now, in an order that does
// not hang on the scheduler.
func (w *world) busy() []*link {
	type place struct {
		*link
		command
	}
	var places []place
	for _, l := range w.all() {
		if run, deliver, c := l.ready(); run || deliver {
			places = append(places, place{l, c})
		}
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Or(strings.Compare(a.order, b.order), a.came-b.came) })
	busy := make([]*link, len(places))
	for i, p := range places {
		busy[i] = p.link
	}
	return busy
}

func (w *world) arrival() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.came++
	return w.came
}

// step does one thing.
func (w *world) step() {
	var run, deliver []*link
	for _, l := range w.busy() {
		if r, _, _ := l.ready(); l.owner.frozen {
			continue
		} else if r {
			run = append(run, l)
		} else {
			deliver = append(deliver, l)
		}
	}
	idle := len(run)+len(deliver) == 0
	weights := []struct {
		weight int
		do     func()
	}{
		{on(len(run) > 0, 50), func() { w.run(run[w.draw.IntN(len(run))]) }},
		{on(len(deliver) > 0, 60), func() { w.deliver(deliver[w.draw.IntN(len(deliver))]) }},
		{8, w.client},
		{14, w.work},
		{on(w.calling, 8), w.tell},
		{on(w.pulling, 10), w.pull},
		{on(idle, 30) + 2, func() { w.pass(w.moment()) }},
		{2, w.upkeep},
		{on(w.faults, 3), w.fault},
	}
	sum := 0
	for _, o := range weights {
		sum += o.weight
	}
	n := w.draw.IntN(sum)
	for _, o := range weights {
		if n -= o.weight; n < 0 {
			o.do()
			break
		}
	}
}

func on(yes bool, n int) int {
	if yes {
		return n
	}
	return 0
}

// moment is how long nothing happens.
func (w *world) moment() time.Duration {
	most := [...]int{5, 50, 50, 300, 300, 1000, 3000}[w.draw.IntN(7)]
	return time.Duration(1+w.draw.IntN(most)) * time.Millisecond
}

// run has Redis do what was sent on a link.
func (w *world) run(l *link) {
	_, _, c := l.ready()
	w.doing, w.by = c.label, l.owner.broker.Name()
	l.runs()
	w.did("%s: Redis does %s", l.owner.name, c.label)
	w.happened()
	w.doing, w.by = "", ""
}

// deliver lets a gateway have what Redis answered, and lets it go on until it waits.
func (w *world) deliver(l *link) {
	_, _, c := l.ready()
	l.arrives()
	w.say("%s hears of %s", l.owner.name, c.label)
	synctest.Wait()
	w.finish()
}

// happened passes on what a command of Redis brought about, and looks at all of it.
func (w *world) happened() {
	touched, published := w.redis.news()
	w.published = published
	for _, p := range published {
		for _, l := range w.all() {
			l.mu.Lock()
			l.hears(p[0], message(p[0], p[1]))
			l.mu.Unlock()
		}
	}
	for _, at := range w.partitions {
		if touched[at+"replies"] {
			w.takenByGateways(at)
			for _, l := range w.all() {
				l.unblock()
			}
			w.redis.news()
		}
	}
	if len(touched) > 0 && w.broken == nil {
		w.check(touched)
	}
}

// pass lets time pass, until a gateway says something or d is over.
func (w *world) pass(d time.Duration) {
	begun := time.Now()
	for _, l := range w.all() {
		l.mu.Lock()
		if !l.blocked.IsZero() {
			d = min(d, max(0, l.blocked.Sub(begun)))
		}
		l.mu.Unlock()
	}
	select {
	case <-w.sent:
	default:
	}
	t := time.NewTimer(d)
	select {
	case <-w.sent:
	case <-t.C:
	}
	t.Stop()
	synctest.Wait()
	w.redis.FastForward(time.Since(begun))
	for _, l := range w.all() {
		l.mu.Lock()
		over := !l.blocked.IsZero() && !time.Now().Before(l.blocked)
		l.mu.Unlock()
		if over {
			l.unblock()
		}
	}
	w.redis.news()
	for _, rec := range w.records { // what expired
		if !rec.forgotten && !w.there(rec.key()) {
			w.checkForgotten(rec)
		}
	}
	w.say("time passes")
	w.finish()
}

// say adds a line to the trace.
func (w *world) say(format string, args ...any) {
	if w.silent {
		return
	}
	fmt.Fprintf(&w.trace, "%4d %9.4f  ", w.steps, time.Since(w.begun).Seconds())
	fmt.Fprintf(&w.trace, format+"\n", args...)
}

// did is say for what Redis did, with a mark of its answer.
func (w *world) did(format string, args ...any) {
	if w.silent {
		return
	}
	w.say(format+", #%08x", append(args, w.redis.mark())...)
}

// fail notes what must not be; the first counts.
func (w *world) fail(format string, args ...any) {
	if w.broken == nil {
		w.broken = fmt.Errorf(format, args...)
		w.say("BROKEN: %v", w.broken)
	}
}
