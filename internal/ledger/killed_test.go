package ledger_test

import (
	"context"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

// All clocks run on after the gateway that accepted the request was killed, and
// each names itself.
func TestClocksOutliveTheirGateway(t *testing.T) {
	f := deploy(t, false)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	f.flows(t)
	idle := "nobody" // known by its announcement, answered by no one
	f.redis.Client.HSetNX(ctx, "cc:services", idle, "{}")
	tests := map[string]struct {
		service string
		request client.Request
		limit   time.Duration
	}{
		"start": {idle, client.Request{StartTimeout: time.Second}, time.Second},
		"total": {idle, client.Request{Timeout: 1500 * time.Millisecond}, 1500 * time.Millisecond},
		"run":   {stuck, client.Request{RunTimeout: time.Second}, time.Second},
	}
	accepted := map[string]api.Status{}
	for reason, test := range tests {
		for accepted[reason].CorrelationID == "" {
			s, err := f.client(0).Submit(ctx, test.service, test.request)
			if ctx.Err() != nil {
				t.Fatalf("%s: %v", reason, err)
			}
			accepted[reason] = s // a service is known within a second
		}
	}
	f.servers[0].Kill() // its clocks are in Redis
	for reason, test := range tests {
		s, err := f.client(1).Wait(ctx, accepted[reason].CorrelationID)
		if err != nil || s.Status != api.TimedOut || s.Reason != reason {
			t.Errorf("%s: %s, %q, %v", reason, s.Status, s.Reason, err)
			continue
		}
		began := time.Time(s.CreatedAt)
		if reason == "run" {
			began = time.Time(s.StartedAt)
		}
		if late := time.Time(s.FinishedAt).Sub(began) - test.limit; late < 0 || late > 10*time.Second {
			t.Errorf("%s fired %v after its limit", reason, late)
		}
	}
}

// A request whose worker is killed runs again on another one, within its lease
// and five seconds.
func TestKilledWorkerLosesNothing(t *testing.T) {
	f := deploy(t, false)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	s, err := f.client(0).Submit(ctx, stuck, client.Request{Body: []byte("x")})
	for err != nil && ctx.Err() == nil { // the first gateway listens when it listens
		s, err = f.client(0).Submit(ctx, stuck, client.Request{Body: []byte("x")})
	}
	if err != nil {
		t.Fatal(err)
	}
	for s.Status != api.Running {
		if s, err = f.client(0).Status(ctx, s.CorrelationID); err != nil {
			t.Fatal(err)
		}
	}
	killed := time.Now()
	for _, p := range f.workers { // whoever has it; they come back at once
		p.Kill()
		p.Start()
	}
	for s.Attempt < 2 || s.Status != api.Running {
		if s, err = f.client(0).Status(ctx, s.CorrelationID); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(killed); took > lease+5*time.Second {
		t.Errorf("it ran again after %v, want %v at most", took, lease+5*time.Second)
	}
}
