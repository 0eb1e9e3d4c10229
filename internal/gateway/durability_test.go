package gateway_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/gateway"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// becomes asks /readyz until it says so.
func (h house) becomes(code int, says string) {
	h.t.Helper()
	for begun := time.Now(); ; {
		a := h.do("GET", "/readyz", "")
		if a.code == code && strings.Contains(a.body, says) {
			return
		}
		if time.Since(begun) > 30*time.Second {
			h.t.Fatalf("readyz stays %d %s, want %d with %q", a.code, a.body, code, says)
		}
	}
}

// A Redis that is set up in another way while gateways run takes no new requests and
// says why; what was accepted goes on, and all of it once Redis is set right.
func TestRedisIsSetUpInAnotherWay(t *testing.T) {
	r := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	h := start(t, r.URL, func(c *config.Config) { c.Durability = "fsync" })
	h.becomes(200, "durability: fsync\n")
	for _, change := range [][3]string{{"appendfsync", "everysec", "always"}, {"maxmemory-policy", "allkeys-lru", "noeviction"}} {
		open := h.do("POST", "/v1/services/sleep/requests", `{"for":"200ms"}`).status(t)
		r.Client.ConfigSet(t.Context(), change[0], change[1])
		r.Client.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes") // else it is seen within 30 s
		h.becomes(503, change[0]+" of Redis is "+change[1])
		if a := h.do("POST", "/v1/services/echo/requests", "x"); a.code != 503 || !strings.Contains(a.body, "not-durable") || a.header.Get("Retry-After") == "" {
			t.Errorf("submit: %d %v %s", a.code, a.header, a.body)
		}
		if a := h.do("GET", open.Links.Self+"?wait=10s", ""); a.status(t).Status != api.Succeeded {
			t.Errorf("what was accepted: %d %s", a.code, a.body)
		}
		if a := h.do("GET", "/metrics", ""); !strings.Contains(a.body, `coatcheck_durability{mode="fsync",source="configured"} 0`) {
			t.Error("the metrics don't say so")
		}
		r.Client.ConfigSet(t.Context(), change[0], change[2])
		h.becomes(200, "durability: fsync\n")
		h.flows()
	}
}

// A replica that lags makes a submit unknown; the same key resolves it.
func TestReplicaLags(t *testing.T) {
	r := redistest.Start(t, "--appendonly", "yes")
	replica := redistest.Start(t, "--replicaof", "127.0.0.1", strings.TrimPrefix(r.URL, "redis://127.0.0.1:"))
	h := start(t, r.URL, func(c *config.Config) { c.Durability, c.DurabilityWait = "replicated(1)", 500*time.Millisecond })
	h.flows()
	replica.Pause()
	for range 2 {
		a := h.do("POST", "/v1/services/echo/requests", "x", api.HeaderIdempotencyKey, "k")
		if a.code != 504 || !strings.Contains(a.body, "effect-unknown") || a.header.Get("Retry-After") == "" {
			t.Errorf("%d %v %s", a.code, a.header, a.body)
		}
	}
	replica.Resume()
	first := h.do("POST", "/v1/services/echo/requests", "x", api.HeaderIdempotencyKey, "k")
	for begun := time.Now(); first.code == 504 && time.Since(begun) < 30*time.Second; { // a busy machine
		first = h.do("POST", "/v1/services/echo/requests", "x", api.HeaderIdempotencyKey, "k")
	}
	again := h.do("POST", "/v1/services/echo/requests", "x", api.HeaderIdempotencyKey, "k")
	if first.code != 202 || first.header.Get(api.HeaderIdempotencyReplayed) != "true" || first.status(t).CorrelationID != again.status(t).CorrelationID {
		t.Errorf("%d %v %s, then %s", first.code, first.header, first.body, again.body)
	}
	if a := h.do("GET", "/metrics", ""); !strings.Contains(a.body, `coatcheck_durability{mode="replicated(1)",source="configured"} 1`) || strings.Contains(a.body, "coatcheck_durability_unmet_total 0\n") {
		t.Error("the metrics don't say so")
	}
	h.flows()
}

// A Redis that answers, and lacks what may still come, is not taken for a wrong address.
func TestStartWithoutReplicas(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, "--appendonly", "yes")
	c := config.Default()
	c.Addr, c.Durability = "127.0.0.1:0", "replicated(1)"
	_, err := gateway.Start(t.Context(), gateway.Options{Config: c, RedisURL: r.URL, Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "and 0 follow") || strings.Contains(err.Error(), "redis_url") {
		t.Errorf("it says %v", err)
	}
}
