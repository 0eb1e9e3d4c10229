// Package metrics shows a gateway to Prometheus. All names start with
// coatcheck_; what is counted is counted by the gateway that did it, so sums
// over gateways are right, and gauges of the shared table are the same on each.
//
//	m := metrics.New(b, metrics.Sources{…})
//	http.Handle("/metrics", m)
package metrics

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/callback"
)

// scrapeTimeout bounds what one scrape may ask of Redis.
const scrapeTimeout = 2 * time.Second

// Sources are the parts of a gateway that have numbers of their own.
type Sources struct {
	Open    func() (waiting, streams int64) // calls that wait, streams that are open
	Claims  func() int                      // claims over HTTP that wait for work
	Held    func() int                      // partitions that this process does the upkeep of
	Sent    func() callback.Stats           // of callbacks; nil: this gateway sends none
	Told    func() map[string]int64         // problems that calls were answered with, by type
	Version string
}

// metrics is a collector of what is counted as it happens and of what is read
// at a scrape.
type metrics struct {
	broker  *broker.Broker
	sources Sources

	outcomes *prometheus.CounterVec
	replies  *prometheus.CounterVec
	total    *prometheus.HistogramVec
	running  *prometheus.HistogramVec
}

var (
	descDepth   = prometheus.NewDesc("coatcheck_queue_depth", "Requests that no worker has yet.", []string{"service"}, nil)
	descHeldUp  = prometheus.NewDesc("coatcheck_queue_waiting", "Part of the depth that waits outside of the stream, by what for: delay, also a back-off; key, for others with its ordering or concurrency key; line, for its turn.", []string{"service", "reason"}, nil)
	descPaused  = prometheus.NewDesc("coatcheck_service_paused", "1 while a service is paused: its requests are accepted, and given to no worker.", []string{"service"}, nil)
	descOldest  = prometheus.NewDesc("coatcheck_queue_oldest_age_seconds", "Age of the oldest request that no worker has yet.", []string{"service"}, nil)
	descTable   = prometheus.NewDesc("coatcheck_requests", "Requests in the correlation table; outcomes to five minutes.", []string{"status"}, nil)
	descWaiting = prometheus.NewDesc("coatcheck_waiters", "Calls that wait for an outcome on this gateway.", nil, nil)
	descStreams = prometheus.NewDesc("coatcheck_streams", "Event streams open on this gateway.", nil, nil)
	descClaims  = prometheus.NewDesc("coatcheck_claims_waiting", "Claims over HTTP that wait for work on this gateway.", nil, nil)
	descHeld    = prometheus.NewDesc("coatcheck_partitions_held", "Partitions that this gateway does the upkeep of.", nil, nil)
	descReady   = prometheus.NewDesc("coatcheck_redis_up", "Whether Redis answers this gateway.", nil, nil)
	descTaken   = prometheus.NewDesc("coatcheck_requests_accepted_total", "Requests by service, as accepted by this gateway: submits, items of batches, scatters as service *, and retries; without those that jobs redrive, and what an idempotency key found.", []string{"service"}, nil)
	descLost    = prometheus.NewDesc("coatcheck_redis_data_lost_total", "Times that Redis came back without its data.", nil, nil)
	descKept    = prometheus.NewDesc("coatcheck_durability", "1 while Redis keeps what is accepted as is promised, else 0 and no requests are taken. source: configured, checked against Redis; asserted, by the operator; redis, as it is set, nothing configured.", []string{"mode", "source"}, nil)
	descUnmet   = prometheus.NewDesc("coatcheck_durability_unmet_total", "Answers withheld because too few replicas of Redis had confirmed in time.", nil, nil)
	descPool    = prometheus.NewDesc("coatcheck_redis_connections", "Connections to Redis.", []string{"state"}, nil)
	descStuck   = prometheus.NewDesc("coatcheck_stuck", "Decisions overdue by more than 10 s: timeouts, back-offs, callbacks to try again. Must be 0.", nil, nil)
	descOwed    = prometheus.NewDesc("coatcheck_callbacks_owed", "Callbacks that wait for a gateway or were claimed by one, without those that wait for another try or that a gateway had to deliver at once.", nil, nil)
	descAside   = prometheus.NewDesc("coatcheck_replies_set_aside", "Replies, and entries on the stream of a service, that could not be understood and are kept for a day.", nil, nil)
	descSent    = prometheus.NewDesc("coatcheck_callbacks_total", "Callbacks by result: delivered; failed, an attempt that is tried again; given_up; dropped, of a request that is gone; held, waited for a busy host.", []string{"result"}, nil)
	descTold    = prometheus.NewDesc("coatcheck_problems_total", "Calls, and items of batches, that were answered with a problem, by its type: what /problems/TYPE explains.", []string{"type"}, nil)
	descBuild   = prometheus.NewDesc("coatcheck_build_info", "1, with the version as label.", []string{"version"}, nil)
	descMisses  = prometheus.NewDesc("coatcheck_redis_pool_timeouts_total", "Commands that found no connection in time.", nil, nil)
)

// buckets of seconds, from an echo to a long job.
var buckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800}

// New counts what b reports from here on, and serves it.
func New(b *broker.Broker, s Sources) http.Handler {
	m := &metrics{
		broker: b, sources: s,
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "coatcheck_outcomes_total", Help: "Requests by service and outcome, as settled by this gateway."}, []string{"service", "status", "reason"}),
		replies:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "coatcheck_replies_total", Help: "Replies and upkeep by kind: outcome, event, heartbeat, retry, release, lapse, and what was dropped: late, duplicate, stale, orphan, foreign, garbage, oversize; gap is a number that a worker skipped, acked an entry that a worker acknowledged by itself."}, []string{"kind"}),
		total:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "coatcheck_time_to_outcome_seconds", Help: "From accepted to the outcome.", Buckets: buckets}, []string{"service"}),
		running:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "coatcheck_run_seconds", Help: "From claimed to the outcome.", Buckets: buckets}, []string{"service"}),
	}
	for _, kind := range []string{"outcome", "event", "heartbeat", "retry", "release", "lapse", "late", "duplicate", "stale", "orphan", "foreign", "garbage", "oversize", "gap", "acked"} {
		m.replies.WithLabelValues(kind) // a counter that is not there yet can't be alerted on
	}
	b.Observe(m.observe)
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, m.outcomes, m.replies, m.total, m.running,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

func (m *metrics) observe(f broker.Fact) {
	m.replies.WithLabelValues(f.Kind).Inc()
	if f.Kind != "outcome" {
		return
	}
	reason := f.Reason
	if reason == "-" {
		reason = ""
	}
	m.outcomes.WithLabelValues(f.Service, string(f.Status), reason).Inc()
	m.total.WithLabelValues(f.Service).Observe(f.Total.Seconds())
	if f.RunTime > 0 || f.Status == broker.Succeeded { // a run below a millisecond is still one
		m.running.WithLabelValues(f.Service).Observe(f.RunTime.Seconds())
	}
}

// Describe sends nothing: which gauges there are depends on what Redis says.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads what is not counted. While Redis is away its gauges are missing
// rather than wrong.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	ctx, stop := context.WithTimeout(context.Background(), scrapeTimeout)
	defer stop()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	waiting, streams := m.sources.Open()
	gauge(descWaiting, float64(waiting))
	gauge(descStreams, float64(streams))
	gauge(descClaims, float64(m.sources.Claims()))
	gauge(descHeld, float64(m.sources.Held()))
	s := m.broker.Stats()
	for service, n := range s.Accepted {
		out <- prometheus.MustNewConstMetric(descTaken, prometheus.CounterValue, float64(n), service)
	}
	out <- prometheus.MustNewConstMetric(descLost, prometheus.CounterValue, float64(s.DataLost))
	out <- prometheus.MustNewConstMetric(descMisses, prometheus.CounterValue, float64(s.Pool.Timeouts))
	out <- prometheus.MustNewConstMetric(descUnmet, prometheus.CounterValue, float64(s.Unmet))
	m.collectKept(gauge)
	gauge(descBuild, 1, m.sources.Version)
	m.collectSent(out)
	for kind, n := range m.sources.Told() {
		out <- prometheus.MustNewConstMetric(descTold, prometheus.CounterValue, float64(n), kind)
	}
	gauge(descPool, float64(s.Pool.Idle), "idle")
	gauge(descPool, float64(s.Pool.Total-s.Pool.Idle), "busy")
	if m.broker.Ready() != nil {
		gauge(descReady, 0)
		return
	}
	gauge(descReady, 1)
	u, err := m.broker.Upkeep(ctx)
	if err != nil {
		return
	}
	gauge(descStuck, float64(u.Stuck))
	gauge(descOwed, float64(u.Owed))
	gauge(descAside, float64(u.Aside))
	for _, service := range m.broker.Services() {
		q, err := m.broker.Queue(ctx, service)
		if err != nil {
			return
		}
		gauge(descDepth, float64(q.Depth), service)
		gauge(descOldest, q.OldestAge.Seconds(), service)
		gauge(descHeldUp, float64(q.Scheduled), service, "delay")
		gauge(descHeldUp, float64(q.Gated), service, "key")
		gauge(descHeldUp, float64(q.InLine), service, "line")
		paused := 0.0
		if !m.broker.Paused(service).IsZero() {
			paused = 1
		}
		gauge(descPaused, paused, service)
	}
	table, err := m.broker.Table(ctx)
	if err != nil {
		return
	}
	for _, status := range append([]broker.Status{broker.Scheduled, broker.Queued, broker.Running}, broker.Outcomes...) {
		gauge(descTable, float64(table[status]), string(status))
	}
}

func (m *metrics) collectKept(gauge func(*prometheus.Desc, float64, ...string)) {
	kept, reached, source := m.broker.Kept(), 1.0, "configured"
	switch {
	case kept.Mode == broker.Unpromised:
		return
	case kept.Auto:
		source = "redis"
	case kept.Asserted:
		source = "asserted"
	}
	if kept.Wrong != nil {
		reached = 0
	}
	gauge(descKept, reached, kept.Durability.String(), source)
}

func (m *metrics) collectSent(out chan<- prometheus.Metric) {
	if m.sources.Sent == nil {
		return
	}
	s := m.sources.Sent()
	for result, n := range map[string]int64{
		"delivered": s.Delivered, "failed": s.Failed, "given_up": s.GivenUp, "dropped": s.Dropped, "held": s.Held,
	} {
		out <- prometheus.MustNewConstMetric(descSent, prometheus.CounterValue, float64(n), result)
	}
}
