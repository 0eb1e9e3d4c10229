package broker

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	rosterAge   = time.Second // how old what is known of the workers may be
	rosterBatch = 1000        // announcements read at once
	// announcedFor is how long announcements are kept: longer than they count, so
	// that a gateway that reads now and then misses none.
	announcedFor = 4 * aliveFor
	drainedFor   = 24 * time.Hour // how long the order to drain a worker outlives it
)

var musterScript = newPlainScript("muster")

// Worker is a live worker.
type Worker struct {
	Name      string
	Version   string
	Services  []string
	Slots     int  // 0 if it never announced itself
	Busy      int  // requests that it holds, from samples at most a second old
	Draining  bool // it was told to claim no more, or is ending
	Obeys     bool // it said that it obeys a drain
	Announced bool // else it is known by the requests that it holds alone
	Seen      time.Time
}

// Claims tells whether the worker may take another request.
func (w Worker) Claims() bool { return !w.Draining || !w.Obeys }

// roster is who announced itself, as read off the stream of announcements.
type roster struct {
	read turn   // one at a time, which alone writes at, err, workers and draining
	last string // entry read last; guarded by read

	mu       sync.Mutex // guards the rest
	at       time.Time
	err      error
	workers  map[string]Worker // replaced as a whole
	draining map[string]bool   // replaced as a whole
	live     map[string]int    // by service, as far as somebody asked since the last read
}

// announced reads what is new, at most once a second unless fresh. The map must
// not be changed.
func (b *Broker) announced(ctx context.Context, fresh bool) (map[string]Worker, error) {
	r := &b.roster
	if known, err, recent := r.recent(); recent && !fresh {
		return known, err
	}
	if err := r.read.take(ctx); err != nil {
		return nil, err
	}
	defer r.read.give()
	if known, err, recent := r.recent(); recent && !fresh { // somebody read it meanwhile
		return known, err
	}
	err := b.Ready()
	if err == nil {
		err = b.muster(ctx, r)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at, r.err, r.live = time.Now(), err, map[string]int{}
	return r.workers, err
}

func (r *roster) recent() (map[string]Worker, error, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.workers, r.err, time.Since(r.at) < rosterAge
}

// muster reads who is there, and who of them is told to drain. It is called with
// roster.read taken.
func (b *Broker) muster(ctx context.Context, r *roster) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer stop()
	workers, last := maps.Clone(r.workers), r.last
	if len(workers) == 0 { // also after Redis lost its data, whose clock may be behind
		workers, last = map[string]Worker{}, "-"
	}
	pipe := b.redis.commands.Pipeline()
	told, clock := pipe.HKeys(ctx, drainingKey), b.clockIn(ctx, pipe)
	more := pipe.XRangeN(ctx, workersKey, last, "+", rosterBatch)
	if _, err := pipe.Exec(ctx); err != nil {
		return fault("read the announcements of workers", err)
	}
	now, err := clock()
	if err != nil {
		return err
	}
	for {
		for _, entry := range more.Val() {
			last = after(entry.ID)
			w, gone, ok := enlisted(entry)
			if gone {
				delete(workers, w.Name)
			} else if ok {
				workers[w.Name] = w
			}
		}
		if len(more.Val()) < rosterBatch {
			break
		}
		more = b.redis.commands.XRangeN(ctx, workersKey, last, "+", rosterBatch)
		if err := more.Err(); err != nil {
			return fault("read the announcements of workers", err)
		}
	}
	draining := map[string]bool{}
	for _, name := range told.Val() {
		draining[name] = true
	}
	for name, w := range workers {
		if now.Sub(w.Seen) > aliveFor {
			delete(workers, name)
		} else if draining[name] {
			w.Draining = true
			workers[name] = w
		}
	}
	r.last = last
	r.mu.Lock()
	defer r.mu.Unlock()
	r.workers, r.draining = workers, draining
	return nil
}

// Workers are all live workers by name, with what they hold.
func (b *Broker) Workers(ctx context.Context) ([]Worker, error) {
	return b.workers(ctx, b.Services(), false)
}

// WorkersOf are the live workers of a service by name, with what they hold of it.
func (b *Broker) WorkersOf(ctx context.Context, service string) ([]Worker, error) {
	all, err := b.workers(ctx, []string{service}, false)
	return slices.DeleteFunc(all, func(w Worker) bool { return !slices.Contains(w.Services, service) }), err
}

func (b *Broker) workers(ctx context.Context, services []string, fresh bool) ([]Worker, error) {
	announced, err := b.announced(ctx, fresh)
	if err != nil {
		return nil, err
	}
	found := maps.Clone(announced)
	for _, service := range services {
		holds, err := b.holds(ctx, service)
		if err != nil {
			return nil, err
		}
		for name, n := range holds {
			w, known := found[name]
			if !known {
				if !validWorker(name) {
					continue
				}
				w = Worker{Name: name, Draining: b.toldToDrain(name)}
			}
			w.Busy += n
			if !slices.Contains(w.Services, service) {
				w.Services = append(slices.Clone(w.Services), service)
			}
			found[name] = w
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b Worker) int { return strings.Compare(a.Name, b.Name) }), nil
}

// holds is how many requests of a service each consumer holds. The map must not
// be changed.
func (b *Broker) holds(ctx context.Context, service string) (map[string]int, error) {
	if _, _, err := b.sample(ctx, service); err != nil {
		return nil, err
	}
	s := b.samples.of(service)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holds, nil
}

func (b *Broker) toldToDrain(name string) bool {
	b.roster.mu.Lock()
	defer b.roster.mu.Unlock()
	return b.roster.draining[name]
}

// LiveWorkers is how many workers of a service are known to be alive and take
// requests; ok is false where that can't be told.
func (b *Broker) LiveWorkers(ctx context.Context, service string) (n int, ok bool) {
	if _, err := b.announced(ctx, false); err != nil {
		return 0, false
	}
	r := &b.roster
	r.mu.Lock()
	n, ok = r.live[service]
	r.mu.Unlock()
	if ok {
		return n, true
	}
	workers, err := b.WorkersOf(ctx, service)
	if err != nil {
		return 0, false
	}
	for _, w := range workers {
		if w.Claims() {
			n++
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live[service] = n
	return n, true
}

// Slots is how many requests of a service its live workers said that they take
// at once, all together; those that drain take none. A worker of several
// services counts for each with all its slots. It is at most a second old.
func (b *Broker) Slots(ctx context.Context, service string) (n int, err error) {
	announced, err := b.announced(ctx, false)
	for _, w := range announced {
		if w.Claims() && slices.Contains(w.Services, service) {
			n += w.Slots
		}
	}
	return n, err
}

// Muster forgets announcements that no longer count, and orders to drain that
// nobody is left to obey.
func (b *Broker) Muster(ctx context.Context) error {
	if _, err := musterScript.run(ctx, b.redis, partition{}, []string{workersKey}, announcedFor.Milliseconds()); err != nil {
		return fault("forget workers", err)
	}
	told, err := b.redis.commands.HGetAll(ctx, drainingKey).Result()
	if err != nil || len(told) == 0 {
		return fault("read who drains", err)
	}
	now, err := b.Now(ctx)
	if err != nil {
		return err
	}
	alive, err := b.announced(ctx, true)
	if err != nil {
		return err
	}
	for name, since := range told {
		if _, lives := alive[name]; !lives && now.Sub(millis(since)) > drainedFor {
			if err := b.redis.commands.HDel(ctx, drainingKey, name).Err(); err != nil {
				return fault("forget who drains", err)
			}
		}
	}
	return nil
}
