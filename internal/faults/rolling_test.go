package faults_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Criteria of what happens to one of several gateways.
const (
	rolls = "300 submits/s all the while; no call breaks and none is refused; streams go on without a gap or a repeat; each accepted request has its outcome; exit ≤ 25 s, and its partitions at the others ≤ 0.5 s after that; then 5/5/6 again"
	falls = "who waits at another gateway is answered ≤ 2 s after the reply; streams go on without a gap or a repeat; each accepted request has its outcome; partitions 8/8"

	exits    = 25 * time.Second // after which supervisors kill
	takeover = 2 * time.Second
	atOnce   = 500 * time.Millisecond // a third of the lease that who is killed leaves
	parted   = 16                     // partitions
	steps    = 20                     // progress events of a request that is streamed
)

// street is three gateways as processes, what stands before them, and a crowd of
// clients: some submit at a rate, some wait for replies, some follow streams.
type street struct {
	*house
	all     []fleet.Server
	to      *balancer
	stop    context.CancelFunc
	going   context.Context
	clients sync.WaitGroup
	killed  atomic.Bool // a gateway was: its connections may break

	begun                            time.Time
	submits, waits, streams, resumed atomic.Int64 // that ended well
	moved, broke                     atomic.Int64 // connections refused; broken by a kill

	mu       sync.Mutex // guards the rest
	accepted []string
	replied  map[string]time.Time // payload → when its worker had answered
	latest   time.Duration        // from there to who waits for it
}

// crowded opens a street on a Redis and fills it. rate is of submits a second.
func crowded(r *round, rate, waiters, streams int) *street {
	r.Helper()
	redis := redistest.Start(r)
	s := &street{house: &house{round: r, redis: redis, ran: map[string]int{}}, replied: map[string]time.Time{}}
	for range 3 {
		s.all = append(s.all, fleet.Gateway(r, redis.URL, fmt.Sprintf("partitions: %d\ndefaults: {timeout: 2m}\nservices: {echo: , nap: , steps: }\n", parted)))
	}
	s.work(redis.URL, func(w *worker.Worker) {
		w.Handle("echo", s.echo)
		w.Handle("nap", s.nap)
		w.Handle("steps", s.step)
	}, worker.Concurrency(2*(waiters+streams)+100))
	s.to = balance(r, s.all)
	s.going, s.stop = context.WithCancel(context.Background())
	r.Cleanup(func() { s.stop(); s.clients.Wait() })
	submitters := max(rate/5, 1)
	s.begun = time.Now()
	for n := range submitters {
		s.clients.Go(func() { s.submitter(n, time.Duration(submitters)*time.Second/time.Duration(rate)) })
	}
	for n := range waiters {
		s.clients.Go(func() { s.waiter(n) })
	}
	for n := range streams {
		s.clients.Go(func() { s.follower(n) })
	}
	s.until("the whole crowd", func() bool { return s.submits.Load() > 0 && s.waits.Load() >= int64(waiters)/4 })
	s.shared(5, 5, 6)
	return s
}

// nap answers after a while, and notes when.
func (s *street) nap(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	select {
	case <-ctx.Done():
		return worker.Reply{}, context.Cause(ctx)
	case <-time.After(rand.N(time.Duration(of(8000, 1000)) * time.Millisecond)):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replied[string(r.Body)] = time.Now()
	return worker.Reply{Body: r.Body}, nil
}

// step tells of every step of a long way.
func (s *street) step(ctx context.Context, r *worker.Request) (worker.Reply, error) {
	for n := range steps {
		select {
		case <-ctx.Done():
			return worker.Reply{}, context.Cause(ctx)
		case <-time.After(rand.N(time.Duration(of(2000, 400)) * time.Millisecond)):
		}
		if err := r.Progress(ctx, n+1); err != nil {
			return worker.Reply{}, err
		}
	}
	return worker.Reply{Body: r.Body}, nil
}

// rest waits, and tells whether clients still go on.
func (s *street) rest(d time.Duration) bool {
	select {
	case <-s.going.Done():
	case <-time.After(d):
	}
	return s.going.Err() == nil
}

// try makes a call until it has an answer: connections may be refused, and may break
// only where a gateway was killed.
func (s *street) try(w *wire, method, path, body string, headers ...string) answer {
	for {
		a, err := w.call(method, path, body, headers...)
		switch {
		case err == nil:
			return a
		case errors.Is(err, errNobody):
			s.moved.Add(1)
		case s.killed.Load():
			s.broke.Add(1)
		default:
			s.Error(err)
			return answer{}
		}
		<-time.After(rand.N(50 * time.Millisecond)) // until the next try
	}
}

// accept submits, and must be accepted.
func (s *street) accept(w *wire, service, body string) (api.Status, bool) {
	a := s.try(w, "POST", "/v1/services/"+service+"/requests", body, "Idempotency-Key", body)
	if a.code != http.StatusAccepted {
		s.Errorf("submit: %d %s", a.code, a.body)
		return api.Status{}, false
	}
	status := a.status()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted = append(s.accepted, status.CorrelationID)
	return status, true
}

func (s *street) submitter(n int, each time.Duration) {
	w := &wire{to: s.to}
	defer w.close()
	next := s.begun.Add(rand.N(each))
	for i := 0; s.rest(time.Until(next)); i++ { // one that took long is made up for
		next = next.Add(each)
		if _, ok := s.accept(w, "echo", fmt.Sprintf("submitted-%d-%d", n, i)); ok {
			s.submits.Add(1)
		}
	}
}

// waiter submits and waits for the reply by long-polls.
func (s *street) waiter(n int) {
	w := &wire{to: s.to}
	defer w.close()
	for i := 0; s.rest(0); i++ {
		body := fmt.Sprintf("waited-for-%d-%d", n, i)
		status, ok := s.accept(w, "nap", body)
		for ok && status.FinishedAt.IsZero() {
			a := s.try(w, "GET", status.Links.Self+"?wait=20s", "")
			if ok = a.code == http.StatusOK; !ok {
				s.Errorf("wait: %d %s", a.code, a.body)
			}
			status = a.status()
		}
		if !ok || status.Status != "succeeded" {
			s.Errorf("%s: %s", body, status.Status)
			continue
		}
		s.waits.Add(1)
		s.mu.Lock()
		s.latest = max(s.latest, time.Since(s.replied[body]))
		s.mu.Unlock()
	}
}

// follower follows one request after the other from its first event to its last,
// wherever its stream is cut.
func (s *street) follower(n int) {
	w := &wire{to: s.to}
	defer w.close()
	for i := 0; s.rest(0); i++ {
		status, ok := s.accept(w, "steps", fmt.Sprintf("streamed-%d-%d", n, i))
		for last, over := 0, false; ok && !over && s.going.Err() == nil; {
			before := last
			if last, over, ok = s.stream(w, status.Links.Events, last); ok && !over && last > before {
				s.resumed.Add(1)
			}
			if over && last != steps+1 {
				s.Errorf("%s: its last event is number %d, want %d", status.CorrelationID, last, steps+1)
			}
			if over {
				s.streams.Add(1)
			}
		}
	}
}

// stream reads a stream after an event, until it ends. over: that was the outcome.
func (s *street) stream(w *wire, path string, last int) (now int, over, ok bool) {
	var headers []string
	if last > 0 {
		headers = []string{"Last-Event-ID", strconv.Itoa(last)}
	}
	a, err := w.begin("GET", path, "", headers...)
	if err != nil { // a stream may be cut; its client comes back
		s.moved.Add(1)
		s.rest(rand.N(100 * time.Millisecond))
		return last, false, true
	}
	defer a.Body.Close()
	defer w.close() // how it ends is of no matter
	if a.StatusCode == http.StatusServiceUnavailable {
		s.moved.Add(1)
		s.rest(rand.N(100 * time.Millisecond))
		return last, false, true
	}
	if a.StatusCode != http.StatusOK {
		s.Errorf("stream: %d", a.StatusCode)
		return last, false, false
	}
	for lines := bufio.NewScanner(a.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case name == "event" && value == "reset":
			s.Errorf("%s after %d: reset", path, last)
		case name == "event" && value == "outcome":
			over = true
		case name == "id":
			if id, _ := strconv.Atoi(value); id != last+1 {
				s.Errorf("%s: event %d comes after %d", path, id, last)
			}
			last++
		}
	}
	return last, over, true
}

// until waits for something.
func (s *street) until(what string, done func() bool) {
	s.Helper()
	for deadline := time.Now().Add(settled); !done(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("never came: %s", what)
		}
	}
}

// shared waits until gateways have so many partitions, least first.
func (s *street) shared(want ...int) {
	s.Helper()
	s.until(fmt.Sprint("partitions shared as ", want), func() bool {
		have := map[string]int{}
		for _, key := range s.redis.Client.Keys(s.Context(), "cc:{*}:steward").Val() {
			have[s.redis.Client.Get(s.Context(), key).Val()]++
		}
		n := map[int]int{}
		for name, held := range have {
			if name != "" {
				n[held]++
			}
		}
		for _, w := range want {
			n[w]--
		}
		for _, left := range n {
			if left != 0 {
				return false
			}
		}
		return true
	})
}

// held waits until each partition has its steward.
func (s *street) held() {
	s.Helper()
	s.until("a steward of every partition", func() bool {
		held := 0
		for _, key := range s.redis.Client.Keys(s.Context(), "cc:{*}:steward").Val() {
			if s.redis.Client.Get(s.Context(), key).Val() != "" {
				held++
			}
		}
		return held == parted
	})
}

// account ends the crowd, and wants the outcome of every request it had accepted.
func (s *street) account() {
	s.Helper()
	s.stop()
	s.clients.Wait()
	var all sync.WaitGroup
	slots := make(chan struct{}, 64)
	for _, id := range s.accepted {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			for {
				a, err := call(s.Context(), "GET", s.all[0].URL+"/v1/requests/"+id+"?wait=30s", "")
				if err == nil && a.code == http.StatusOK && a.status().FinishedAt.IsZero() {
					continue
				}
				if err != nil || a.code != http.StatusOK || a.status().Status != "succeeded" {
					s.Errorf("%s: %d %s, %v", id, a.code, a.body, err)
				}
				return
			}
		})
	}
	all.Wait()
	s.finds("%d accepted and answered (%d submits, %d waits, %d whole streams, %d resumed), %d connections refused, %d broken by the kill",
		len(s.accepted), s.submits.Load(), s.waits.Load(), s.streams.Load(), s.resumed.Load(), s.moved.Load(), s.broke.Load())
}

// rolling restarts three gateways one after the other, under load.
//
// Planted: the port closed at once, and idle connections with it, so that calls broke; a
// drain that leaves its leases to lapse.
func rolling(r *round) {
	s := crowded(r, of(300, 40), of(500, 30), of(500, 20))
	slowest, latest := time.Duration(0), time.Duration(0)
	for _, g := range s.all[:of(3, 1)] {
		slowest = max(slowest, g.Drain(exits))
		gone := time.Now()
		s.held()
		latest = max(latest, time.Since(gone))
		g.Start()
		g.Ready(r)
		s.shared(5, 5, 6)
	}
	rate := float64(s.submits.Load()) / time.Since(s.begun).Seconds()
	r.finds("%.0f submits/s; slowest exit %v", rate, slowest.Round(time.Millisecond))
	r.within("every partition had a steward again after", latest, atOnce)
	if *full && (rate < 0.95*300 || s.resumed.Load() == 0) {
		r.Errorf("%.0f submits/s and %d streams that were resumed: this shows less than it is to", rate, s.resumed.Load())
	}
	r.within("latest of the waits after its reply", s.latestWait(), takeover)
	s.account()
}

// killed kills a gateway under load, and looks at who waits at the others.
//
// Planted: a lease of five seconds.
func killed(r *round) {
	s := crowded(r, of(100, 20), of(200, 20), of(100, 10))
	s.killed.Store(true)
	s.all[2].Kill()
	begun := time.Now()
	s.shared(8, 8)
	r.within("partitions shared again after", time.Since(begun), takeover)
	<-time.After(time.Duration(of(8000, 2000)) * time.Millisecond) // under load
	r.within("latest of the waits after its reply", s.latestWait(), takeover)
	s.account()
}

func (s *street) latestWait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest
}
