package metrics_test

import (
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/callback"
	"github.com/coatcheck/coatcheck/internal/metrics"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Dashboards and alerts are written against these names.
func TestNames(t *testing.T) {
	b, err := broker.Open(t.Context(), broker.Options{
		URL: redistest.Mini(t), Logger: slog.New(slog.DiscardHandler), Services: map[string]broker.ServiceConfig{"echo": {}, "idle": {}},
		Durability: broker.Durability{Mode: broker.Memory},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	h := metrics.New(b, metrics.Sources{
		Open: func() (int64, int64) { return 2, 3 }, Claims: func() int { return 4 }, Held: func() int { return 1 }, Version: "v1.2.3",
		Told: func() map[string]int64 { return map[string]int64{"gone": 9} },
		Sent: func() callback.Stats { return callback.Stats{Delivered: 4, Failed: 5, GivenUp: 6, Dropped: 7, Held: 8} },
	})
	for _, s := range []broker.Submission{
		{Body: []byte("x"), OrderingKey: "k"},
		{OrderingKey: "k", StartTimeout: time.Hour},
		{OrderingKey: "k"},
		{Delay: time.Hour, IdempotencyKey: "once"},
		{Delay: time.Hour, IdempotencyKey: "once"},
	} {
		s.Tenant, s.Service = broker.DefaultTenant, "echo"
		if _, _, err := b.Submit(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	got, err := b.Claim(t.Context(), "w", []string{"echo"}, 1, time.Second)
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	garbage := got[0]
	garbage.Token = "none"
	for _, d := range []broker.Delivery{garbage, got[0]} {
		if err := b.Send(t.Context(), d, broker.WorkerReply{Type: "final"}); err != nil {
			t.Fatal(err)
		}
	}
	for more := true; more; {
		if _, more, err = b.Settle(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Pause(t.Context(), "echo"); err != nil { // the second is on the stream since the first ended
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text := w.Body.String()
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "coatcheck_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	for _, line := range []string{
		`coatcheck_outcomes_total{reason="",service="echo",status="succeeded"} 1`,
		`coatcheck_replies_total{kind="outcome"} 1`, `coatcheck_replies_total{kind="late"} 0`,
		`coatcheck_requests{status="succeeded"} 1`, `coatcheck_requests{status="running"} 0`,
		`coatcheck_queue_depth{service="echo"} 3`, `coatcheck_service_paused{service="echo"} 1`,
		`coatcheck_queue_waiting{reason="delay",service="echo"} 1`, `coatcheck_queue_waiting{reason="key",service="echo"} 1`,
		`coatcheck_queue_waiting{reason="line",service="echo"} 1`, "coatcheck_waiters 2", "coatcheck_stuck 0", "coatcheck_callbacks_owed 0", "coatcheck_replies_set_aside 1",
		`coatcheck_callbacks_total{result="given_up"} 6`, `coatcheck_build_info{version="v1.2.3"} 1`, `coatcheck_replies_total{kind="garbage"} 1`,
		"coatcheck_streams 3", "coatcheck_redis_up 1", `coatcheck_durability{mode="memory",source="configured"} 1`, "coatcheck_durability_unmet_total 0",
		`coatcheck_problems_total{type="gone"} 9`, `coatcheck_requests_accepted_total{service="echo"} 4`, `coatcheck_requests_accepted_total{service="idle"} 0`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	var names []string
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "# TYPE coatcheck_"); ok {
			names = append(names, "coatcheck_"+strings.Fields(name)[0])
		}
	}
	slices.Sort(names)
	want := []string{
		"coatcheck_build_info", "coatcheck_callbacks_owed", "coatcheck_callbacks_total",
		"coatcheck_claims_waiting", "coatcheck_durability", "coatcheck_durability_unmet_total", "coatcheck_outcomes_total", "coatcheck_partitions_held", "coatcheck_problems_total", "coatcheck_queue_depth", "coatcheck_queue_oldest_age_seconds", "coatcheck_queue_waiting",
		"coatcheck_redis_connections", "coatcheck_redis_data_lost_total", "coatcheck_redis_pool_timeouts_total", "coatcheck_redis_up",
		"coatcheck_replies_set_aside", "coatcheck_replies_total", "coatcheck_requests", "coatcheck_requests_accepted_total", "coatcheck_run_seconds", "coatcheck_service_paused", "coatcheck_streams", "coatcheck_stuck", "coatcheck_time_to_outcome_seconds", "coatcheck_waiters",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}
