package faults_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	loaders  = 8
	between  = 20 * time.Millisecond // two requests of one of them
	patience = 15 * time.Second      // of a client with one call
	settled  = 2 * time.Minute       // until all has its outcome
)

// load is clients that submit all through a fault, and what they were told: as
// Jepsen counts, each call is ok, fail or unknown.
type load struct {
	h      *house
	losing atomic.Bool // data: what was accepted may be gone
	stop   context.CancelFunc
	all    sync.WaitGroup

	refused, unknown atomic.Int64

	mu       sync.Mutex        // guards the rest
	accepted map[string]string // ID → payload
	given    map[string]bool   // payloads of which every try was refused
}

var loads atomic.Int64 // so far: no two have a payload in common

func (h *house) load() *load {
	which := loads.Add(1)
	ctx, stop := context.WithCancel(h.Context())
	l := &load{h: h, stop: stop, accepted: map[string]string{}, given: map[string]bool{}}
	for c := range loaders {
		l.all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				payload := fmt.Sprintf("request %d of client %d of load %d, %x", n, c, which, *seed)
				if id := l.submit(ctx, c+n, payload); id != "" && n%3 == 0 {
					l.all.Go(func() { l.look(ctx, c+n, id) })
				}
				<-time.After(rand.N(2 * between))
			}
		})
	}
	h.Cleanup(stop)
	return l
}

// submit tries, by way of all gateways and with one key, until it knows: what was
// unknown is tried even after the load was stopped. One in four takes a refusal for
// an answer.
func (l *load) submit(ctx context.Context, n int, payload string) string {
	gives, unknown := n%4 == 0, false
	for try := 0; ctx.Err() == nil || unknown; try++ {
		g := l.h.gates[(n+try)%len(l.h.gates)]
		once, stop := context.WithTimeout(l.h.Context(), patience)
		a, err := call(once, "POST", g.url+"/v1/services/echo/requests", payload, "Idempotency-Key", fmt.Sprintf("%x", payload))
		stop()
		switch {
		case err == nil && a.code == http.StatusAccepted:
			l.accept(a.status().CorrelationID, payload)
			return a.status().CorrelationID
		case err == nil && a.code == http.StatusServiceUnavailable:
			l.refused.Add(1)
			if a.header.Get("Retry-After") == "" {
				l.h.Errorf("503 without Retry-After: %s", a.body)
			}
			if gives && !unknown {
				l.mu.Lock()
				l.given[payload] = true
				l.mu.Unlock()
				return ""
			}
		case err != nil && l.h.Context().Err() != nil:
			return ""
		case err == nil && a.code == http.StatusGatewayTimeout:
			unknown = true
			l.unknown.Add(1)
		case err != nil: // whatever is broken is not between clients and gateways
			unknown = true
			l.h.Errorf("submit: no answer: %v", err)
		default:
			l.h.Errorf("submit: %d %s", a.code, a.body)
			return ""
		}
		<-time.After(5 * between) // until the next try
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given[payload] = true
	return ""
}

func (l *load) accept(id, payload string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, twice := l.accepted[id]; twice {
		l.h.Errorf("%s was given to %q and to %q", id, other, payload)
	}
	l.accepted[id] = payload
}

// look polls an accepted request for a while: it is there, or a gateway can't tell,
// and once it has its outcome it has it at every gateway.
func (l *load) look(ctx context.Context, n int, id string) {
	ended := false
	for try := 0; try < 20 && ctx.Err() == nil; try++ {
		g := l.h.gates[(n+try)%len(l.h.gates)]
		a, err := call(ctx, "GET", g.url+"/v1/requests/"+id, "")
		switch over := err == nil && a.code == http.StatusOK && !a.status().FinishedAt.IsZero(); {
		case ctx.Err() != nil, a.code == http.StatusGone && l.losing.Load():
			return
		case err != nil || a.code != http.StatusOK && a.code != http.StatusServiceUnavailable:
			l.h.Errorf("poll: %d %s, %v", a.code, a.body, err)
		case a.code == http.StatusServiceUnavailable && a.header.Get("Retry-After") == "":
			l.h.Errorf("poll: 503 without Retry-After: %s", a.body)
		case a.code == http.StatusOK && ended && !over:
			l.h.Errorf("%s had its outcome, and is %s", id, a.status().Status)
		case over:
			ended = true
		}
		<-time.After(5 * between) // until the next look
	}
}

// audit stops the load and reads what became of everything.
func (l *load) audit() {
	l.h.Helper()
	l.stop()
	l.all.Wait()
	ctx, stop := context.WithTimeout(l.h.Context(), settled)
	defer stop()
	var all sync.WaitGroup
	slots := make(chan struct{}, 32)
	for id, payload := range l.accepted {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			l.h.verify(ctx, id, payload)
		})
	}
	all.Wait()
	runs, twice := l.h.runs(), 0
	for payload := range l.given {
		if runs[payload] > 0 {
			l.h.Errorf("%q was refused, and ran", payload)
		}
	}
	for _, payload := range l.accepted {
		switch n := runs[payload]; {
		case n == 0:
			l.h.Errorf("%q has its outcome, and never ran", payload)
		case n > 1:
			twice++
		}
	}
	l.h.finds("%d accepted and answered, %d refusals, %d unknown and resolved, %d dispatched twice", len(l.accepted), l.refused.Load(), l.unknown.Load(), twice)
}

// verify waits for the outcome of a request: its reply is its payload, and poll and
// stream of every gateway show the same bytes.
func (h *house) verify(ctx context.Context, id, payload string) {
	for path := "/v1/requests/" + id; ; {
		a, err := call(ctx, "GET", h.gates[0].url+path+"?wait=30s", "")
		if err == nil && a.code == http.StatusOK && a.status().FinishedAt.IsZero() {
			continue
		}
		if err != nil || a.code != http.StatusOK || a.status().Status != "succeeded" {
			h.Errorf("%s: %d %s, %v", id, a.code, a.body, err)
			return
		}
		for _, g := range h.gates {
			if same := h.get(g, path); same.body != a.body {
				h.Errorf("two gateways differ:\n%s\n%s", a.body, same.body)
			}
			if reply := h.get(g, path+"/reply"); reply.code != http.StatusOK || reply.body != payload {
				h.Errorf("%s: replied %d %q, want %q", id, reply.code, reply.body, payload)
			}
		}
		stream := h.get(h.gates[1], path+"/events").body
		if outcomes(stream) != 1 || !strings.HasSuffix(stream, "data: "+strings.TrimSpace(a.body)+"\n\n") {
			h.Errorf("the stream ends otherwise than the poll:\n%s\n%s", stream, a.body)
		}
		return
	}
}
