package demo_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/demo"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/steward"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs a test with a gateway's broker and a demo worker, where time
// passes only while everybody waits.
func bubble(t *testing.T, test func(*testing.T, *broker.Broker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		quiet := slog.New(slog.DiscardHandler)
		_, dial := redistest.Pipe(t)
		b, err := broker.Open(t.Context(), broker.Options{URL: "redis://bubble", Dial: dial, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		s := steward.New(b, quiet)
		w := worker.New("redis://bubble", worker.Dialer(dial), worker.Logger(quiet))
		demo.Register(w)
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { b.Run(ctx) })
		running.Go(func() { s.Run(ctx) })
		running.Go(func() { w.Run(ctx) })
		time.Sleep(2 * time.Second) // the services are known by now
		test(t, b)
		stop()
		running.Wait()
		b.Close()
	})
}

func run(t *testing.T, b *broker.Broker, service, body string) broker.Record {
	t.Helper()
	r, _, err := b.Submit(t.Context(), broker.Submission{
		Tenant: broker.DefaultTenant, Service: service, ContentType: "text/x", Body: []byte(body), Timeout: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	for !r.Status.Terminal() {
		time.Sleep(10 * time.Millisecond)
		if r, err = b.Status(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestServices(t *testing.T) {
	tests := []struct{ service, body, want string }{
		{"echo", "\x00hi\xff", "succeeded 1 text/x \x00hi\xff"},
		{"echo", "", "succeeded 1 text/x "},
		{"upper", "hé", "succeeded 1 text/x HÉ"},
		{"upper", "\xff", "failed 1 invalid_input: upper wants text in UTF-8"},
		{"sleep", `{"for":"2s"}`, `succeeded 1 application/json {"slept":"2s"}`},
		{"sleep", `{"for":"11m"}`, `failed 1 invalid_input: sleep wants a JSON body like {"for":"2s"}: "11m" is outside 0s..10m0s`},
		{"sleep", `{"for":2}`, `failed 1 invalid_input: sleep wants a JSON body like {"for":"2s"}: 2 is not a duration like "200ms"`},
		{"progress", `{"steps":5,"interval":"200ms"}`, `succeeded 1 application/json {"steps":5}`},
		{"progress", ``, `succeeded 1 application/json {"steps":5}`},
		{"progress", `{"steps":1001}`, "failed 1 invalid_input: steps: 1001 is outside 1..1000"},
		{"progress", `{"step":5}`, `failed 1 invalid_input: progress wants a JSON body like {"steps":5,"interval":"200ms"}: json: unknown field "step"`},
		{"progress", `{} {}`, `failed 1 invalid_input: progress wants one JSON object like {"steps":5,"interval":"200ms"} and nothing after it`},
		{"flaky", `{"fail_times":2}`, `succeeded 3 application/json {"attempts":3}`},
		{"flaky", `{"fail_times":0}`, `succeeded 1 application/json {"attempts":1}`},
		{"flaky", `{"fail_times":3}`, `failed 3 max_attempts: attempt 3 fails on purpose`},
		{"flaky", `{"fail_times":-1}`, `failed 1 invalid_input: fail_times: -1 is outside 0..100`},
		{"fail", `{"message":"as you wish"}`, `failed 1 worker_error: as you wish`},
	}
	bubble(t, func(t *testing.T, b *broker.Broker) {
		for _, test := range tests {
			r := run(t, b, test.service, test.body)
			got := fmt.Sprintf("%s %d ", r.Status, r.Attempt)
			if r.Error != nil {
				got += r.Error.Code + ": " + r.Error.Message
			} else {
				got += r.Reply.ContentType + " " + string(r.Reply.Body)
			}
			if got != test.want {
				t.Errorf("%s %q:\n got %q\nwant %q", test.service, test.body, got, test.want)
			}
		}
	})
}

func TestTakesItsTime(t *testing.T) {
	bubble(t, func(t *testing.T, b *broker.Broker) {
		r := run(t, b, "sleep", `{"for":"2s"}`)
		if took := r.Finished.Sub(r.Started); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("sleep of 2s took %v", took)
		}
		r = run(t, b, "progress", `{"steps":4,"interval":"1s"}`)
		_, events, _, err := b.Events(t.Context(), r.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range events {
			got = append(got, fmt.Sprintf("%v %s", e.At.Sub(r.Started).Round(time.Second), e.Body))
		}
		want := []string{
			`1s {"percent":25,"step":1,"steps":4}`, `2s {"percent":50,"step":2,"steps":4}`,
			`3s {"percent":75,"step":3,"steps":4}`, `4s {"percent":100,"step":4,"steps":4}`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// Every name is answered, and nothing else is.
func TestRegister(t *testing.T) {
	bubble(t, func(t *testing.T, b *broker.Broker) {
		got, want := map[string]bool{}, map[string]bool{}
		for _, name := range b.Services() {
			got[name] = true
		}
		for _, name := range demo.Services {
			want[name] = true
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("services (-want +got):\n%s", diff)
		}
	})
}
