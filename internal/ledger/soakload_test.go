package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
	"github.com/coatcheck/coatcheck/api/webhook"
	"github.com/coatcheck/coatcheck/internal/fleet"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	mostKept   = 40               // keys beyond those before: streams and lines of services, counters, listings
	soakAnswer = 50 * time.Second // from a submit to its outcome, at most
)

// What is done to a request.
const (
	whole        = iota
	hungUpEarly  // its client is gone before the answer to its submit
	hungUpLate   // and while it waits for the outcome
	canceledSoon // while it is on its way to a worker, or there
	workerFails
	kindsOfFault = workerFails
)

// soak is one gateway for a long time.
type soak struct {
	*testing.T
	redis    *redistest.Redis
	gateway  fleet.Server
	client   *client.Client
	receiver *counter

	all         sync.WaitGroup // requests
	samples     []sample
	cuts, kills int

	accepted, ended, refused, hungUp, canceled, failed atomic.Int64
}

// soakMix is the mix without what takes a worker in Python.
var soakMix = slices.DeleteFunc(slices.Clone(mix), func(k kind) bool { return k.name == "snaked" })

// warm has one of each kind answered.
func (s *soak) warm(ctx context.Context) {
	for n := range soakMix {
		for {
			id, err := soakMix[n].submit(ctx, s.client, n, client.Request{Body: []byte("warm")})
			if err == nil {
				s.outcome(ctx, n, soakMix[n], whole, id, "warm")
				break
			}
			if ctx.Err() != nil {
				s.Fatal(err)
			}
			<-time.After(100 * time.Millisecond) // a service that is not announced yet
		}
	}
	s.ended.Store(0)
	s.failed.Store(0)
}

// begin has a request live beside the others.
func (s *soak) begin(ctx context.Context, n, how int) {
	s.all.Go(func() { s.request(ctx, n, how) })
}

// request is the life of one of them.
func (s *soak) request(ctx context.Context, n, how int) {
	k := soakMix[n%len(soakMix)]
	if how == workerFails {
		k = dead
	}
	payload := fmt.Sprintf("payload %d, %x", n, *seed)
	if k.same {
		payload = fmt.Sprintf("payload %d for all, %x", n/1000, *seed)
	}
	r := client.Request{ContentType: "text/plain", Body: []byte(payload), IdempotencyKey: fmt.Sprintf("soak-%d-%x", n, *seed)}
	if n%3 == 0 {
		r.CallbackURL = s.receiver.url
	}
	ctx, stop := context.WithTimeout(ctx, soakAnswer)
	defer stop()
	if how == hungUpEarly {
		gone, stop := context.WithTimeout(ctx, rand.N(5*time.Millisecond))
		defer stop()
		_, _ = k.submit(gone, s.client, n, r) // nobody hears whether it was accepted
		s.hungUp.Add(1)
		return
	}
	for {
		id, err := k.submit(ctx, s.client, n, r)
		if err == nil {
			s.accepted.Add(1)
			s.outcome(ctx, n, k, how, id, payload)
			return
		}
		if ctx.Err() != nil {
			s.Errorf("request %d was not accepted within %v: %v", n, soakAnswer, err)
			return
		}
		s.refused.Add(1)
		<-time.After(100 * time.Millisecond) // its connections were cut
	}
}

// outcome waits for it, in one of the ways that there are.
func (s *soak) outcome(ctx context.Context, n int, k kind, how int, id, payload string) {
	if ids := strings.Fields(id); k.name == "batched" {
		b, err := s.client.WaitBatch(ctx, ids[0])
		if err != nil || b.Succeeded != items {
			s.Errorf("batch %s: %+v, %v", ids[0], b, err)
		}
		s.ended.Add(1)
		return
	}
	switch how {
	case hungUpLate:
		gone, stop := context.WithTimeout(ctx, rand.N(50*time.Millisecond))
		if n%2 == 0 {
			_, _ = s.client.Wait(gone, id)
		} else {
			for range s.client.Events(gone, id) { // until it is gone
			}
		}
		stop()
		s.hungUp.Add(1)
	case canceledSoon:
		<-time.After(rand.N(20 * time.Millisecond)) // while it is on its way
		if _, err := s.client.Cancel(ctx, id); err == nil {
			s.canceled.Add(1)
		}
	}
	var last api.Status
	var err error
	if n%2 == 0 {
		last, err = s.client.Wait(ctx, id)
	} else {
		var e client.Event
		for e, err = range s.client.Events(ctx, id) {
			if err != nil {
				break
			}
			last = e.Status
		}
	}
	want := api.Succeeded
	if k.name == dead.name {
		want = api.Failed
		s.failed.Add(1)
	}
	if err != nil || last.Status != want && (how != canceledSoon || last.Status != api.Canceled) {
		s.Errorf("%s %s: %s, %v; want %s", k.name, id, last.Status, err, want)
		return
	}
	if last.Status == api.Succeeded && k.name != minimal.name && k.name != scattered.name {
		if reply, err := s.client.Reply(ctx, id); err != nil || string(reply.Body) != payload {
			s.Errorf("%s %s: replied %q, %v; want %q", k.name, id, reply.Body, err, payload)
		}
	}
	s.ended.Add(1)
}

// line is what was so far.
func (s *soak) line() string {
	m := s.measure()
	return fmt.Sprintf("%d accepted, %d with their outcome (%d failed as told), %d tries again, %d canceled, %d hung up, %d callbacks; gateway %.1f MiB, %.0f goroutines; Redis %.0f keys",
		s.accepted.Load(), s.ended.Load(), s.failed.Load(), s.refused.Load(), s.canceled.Load(), s.hungUp.Load(), s.receiver.came.Load(), m.memory, m.goroutines, m.keys)
}

// sample is what was measured at an instant.
type sample struct {
	at                       time.Time
	memory, keys, goroutines float64 // memory in MiB, resident
}

func (s *soak) measure() (m sample) {
	m.at = time.Now()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.gateway.PID()))
	if err != nil {
		s.Fatal(err)
	}
	if _, rest, ok := strings.Cut(string(text), "VmRSS:"); ok {
		_, err = fmt.Sscan(rest, &m.memory)
		m.memory /= 1024
	}
	keys, wrong := s.redis.Client.DBSize(s.Context()).Result()
	m.keys = float64(keys)
	metrics, amiss := get(s.Context(), s.gateway.URL+"/metrics")
	if _, rest, ok := strings.Cut(metrics, "\ngo_goroutines "); ok {
		_, _ = fmt.Sscan(rest, &m.goroutines)
	}
	if err := errors.Join(err, wrong, amiss); err != nil || m.memory == 0 || m.keys == 0 {
		s.Logf("measured %+v, %v", m, err)
	}
	return m
}

// trend is how much something grows a minute by least squares, and its mean.
func trend(all []sample, of func(sample) float64) (slope, mean float64) {
	var sx, sy, sxx, sxy float64
	for _, m := range all {
		x, y := m.at.Sub(all[0].at).Minutes(), of(m)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	n := float64(len(all))
	return (n*sxy - sx*sy) / (n*sxx - sx*sx), sy / n
}

// kept is how many keys of a kind are there.
func (s *soak) kept() string {
	kinds := map[string]int{}
	for _, key := range s.redis.Keys(s) {
		kinds[strings.Join(strings.SplitN(key, ":", 4)[:min(3, strings.Count(key, ":")+1)], ":")]++
	}
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		all = append(all, fmt.Sprintf("%d %s", kinds[kind], kind))
	}
	return strings.Join(all, ", ")
}

// counter takes callbacks, and keeps none.
type counter struct {
	url  string
	came atomic.Int64
}

func count(t *testing.T) *counter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{url: "http://" + l.Addr().String()}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || c.came.Add(1)%refuses == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if err := webhook.Verify(r.Header, body, secret); err != nil || !json.Valid(body) {
			t.Errorf("a callback is wrong: %v: %s", err, body)
		}
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return c
}
