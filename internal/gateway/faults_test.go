package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/config"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// heal is within what time work flows again once a fault has ended.
const heal = 5 * time.Second

// flows waits until a request is accepted and answered, and fails if that takes
// longer than heal.
func (h house) flows() {
	h.t.Helper()
	healed := time.Now()
	for {
		a := h.do("POST", "/v1/services/echo/requests", "again", "Prefer", "wait=5")
		if a.code == 200 && a.body == "again" {
			break
		}
		if time.Since(healed) > 30*time.Second {
			h.t.Fatalf("no work flows: %d %s", a.code, a.body)
		}
	}
	if took := time.Since(healed); took > heal {
		h.t.Errorf("work flowed again after %v, want %v at most", took, heal)
	}
}

func TestRedisGoneAndBack(t *testing.T) {
	r := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	const lease = time.Second
	h := start(t, r.URL, func(c *config.Config) { c.Defaults.Lease = lease })
	s := h.do("POST", "/v1/services/sleep/requests", `{"for":"10m"}`).status(t)
	for h.do("GET", s.Links.Self, "").status(t).Status != api.Running {
	}
	r.Kill()
	begun := time.Now()
	for {
		if a := h.do("POST", "/v1/services/echo/requests", "x"); a.code == 503 {
			if a.header.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
			break
		} else if a.code != 504 || time.Since(begun) > 10*time.Second { // 504: sent, and then the connection broke
			t.Fatalf("submit without Redis: %d %s", a.code, a.body)
		}
	}
	if a := h.do("GET", s.Links.Self, ""); a.code != 503 {
		t.Errorf("poll without Redis: %d", a.code)
	}
	if a := h.do("GET", "/livez", ""); a.code != 200 {
		t.Errorf("livez: %d", a.code)
	}
	for time.Since(begun) < 2*lease { // an outage in which no worker can say that it lives
		if a := h.do("GET", s.Links.Self+"?wait=1s", ""); a.code != 503 {
			t.Errorf("poll without Redis: %d", a.code)
		}
	}
	r.Restart(t)
	h.flows()
	for back := time.Now(); time.Since(back) < 2*lease; {
		if got := h.do("GET", s.Links.Self, "").status(t); got.Status != api.Running || got.Attempt != 1 {
			t.Fatalf("after the restart: %s, attempt %d; its worker never stopped", got.Status, got.Attempt)
		}
	}
}

func TestRedisFlushed(t *testing.T) {
	r := redistest.Start(t)
	h := start(t, r.URL)
	ended := h.do("POST", "/v1/services/echo/requests", "x", "Prefer", "wait=5").header.Get("X-Correlation-ID")
	open := h.do("POST", "/v1/services/sleep/requests", `{"for":"10m"}`).status(t)
	if err := r.Client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	h.flows()
	for _, path := range []string{"/v1/requests/" + ended, open.Links.Self, open.Links.Reply, open.Links.Events} {
		if a := h.do("GET", path, ""); a.code != 410 {
			t.Errorf("%s after the flush: %d %s", path, a.code, a.body)
		}
	}
}

// A Redis that hangs is neither gone nor there: what was sent to it is unknown,
// and everything after that is refused.
func TestRedisPaused(t *testing.T) {
	r := redistest.Start(t)
	h := start(t, r.URL)
	s := h.do("POST", "/v1/services/sleep/requests", `{"for":"10m"}`).status(t)
	r.Pause()
	begun := time.Now()
	for {
		a := h.do("POST", "/v1/services/echo/requests", "x")
		if a.code == 503 {
			break
		}
		if a.code != 504 || time.Since(begun) > 10*time.Second {
			t.Fatalf("submit to a Redis that hangs: %d %s", a.code, a.body)
		}
	}
	asked := time.Now()
	for _, path := range []string{s.Links.Self, s.Links.Reply, s.Links.Self + "?wait=20s"} {
		if a := h.do("GET", path, ""); a.code != 503 {
			t.Errorf("%s: %d", path, a.code)
		}
	}
	if a := h.do("POST", s.Links.Cancel, ""); a.code != 503 {
		t.Errorf("cancel: %d", a.code)
	}
	if took := time.Since(asked); took > 4*time.Second {
		t.Errorf("four refusals took %v", took)
	}
	r.Resume()
	h.flows()
	if got := h.do("GET", s.Links.Self, "").status(t); got.Status != api.Running {
		t.Errorf("the running request is %s", got.Status)
	}
}

// Near its limit, new requests are refused while accepted ones end; at its
// limit, what ends work still works.
func TestRedisFull(t *testing.T) {
	const limit = 24 << 20
	r := redistest.Start(t, "--maxmemory", fmt.Sprint(limit))
	h := start(t, r.URL, func(c *config.Config) { c.MaxBody = 1 << 20 })
	running := h.do("POST", "/v1/services/sleep/requests", `{"for":"10m"}`).status(t)
	var waiting []api.Status
	for h.do("GET", running.Links.Self, "").status(t).Status != api.Running {
	}
	body := strings.Repeat("x", 64<<10)
	for n := 0; ; n++ {
		a := h.do("POST", "/v1/services/sleep/requests", body) // fails at its worker at once, and stays with its body
		if a.code == 503 {
			if !strings.Contains(a.body, "memory-full") || a.header.Get("Retry-After") == "" {
				t.Errorf("full: %s", a.body)
			}
			break
		}
		if a.code != 202 || n > 1000 {
			t.Fatalf("submit number %d: %d %s", n, a.code, a.body)
		}
		waiting = append(waiting, a.status(t))
	}
	h.becomes(200, "memory: Redis is near its maxmemory")
	if a := h.do("GET", "/metrics", ""); !strings.Contains(a.body, `coatcheck_problems_total{type="memory-full"} 1`+"\n") || !strings.Contains(a.body, `coatcheck_problems_total{type="gone"} 0`) {
		t.Error("the metrics don't count what was refused")
	}
	var used int
	info, _ := r.Client.Info(t.Context(), "memory").Result()
	for line := range strings.Lines(info) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "used_memory:"); ok {
			used, _ = strconv.Atoi(n)
		}
	}
	if share := float64(used) / limit; share < 0.7 || share > 0.85 {
		t.Errorf("admission stopped at %.0f %% of maxmemory, want 80 %%", 100*share)
	}
	r.Client.ConfigSet(t.Context(), "maxmemory", "1mb") // as if somebody else had filled it
	if a := h.do("POST", running.Links.Cancel, ""); a.code != 200 || a.status(t).Status != api.Canceled {
		t.Errorf("cancel at the limit: %d %s", a.code, a.body)
	}
	for _, s := range waiting {
		if a := h.do("DELETE", s.Links.Self, ""); a.code != 204 {
			t.Fatalf("delete at the limit: %d %s", a.code, a.body)
		}
	}
	r.Client.ConfigSet(t.Context(), "maxmemory", fmt.Sprint(limit))
	h.flows()
	if a := h.do("GET", "/readyz", ""); strings.Contains(a.body, "memory:") {
		t.Errorf("with room again, /readyz says %s", a.body)
	}
}

// A stream outlives a restart of Redis: no event is missing or twice.
func TestStreamOverARestart(t *testing.T) {
	r := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	h := start(t, r.URL)
	s := h.do("POST", "/v1/services/progress/requests", `{"steps":12,"interval":"300ms"}`).status(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+s.Links.Events, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var ids []string
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		id, ok := strings.CutPrefix(lines.Text(), "id: ")
		if !ok {
			continue
		}
		ids = append(ids, id)
		if len(ids) == 4 {
			r.Kill()
			r.Restart(t)
		}
	}
	if got, want := strings.Join(ids, " "), "1 2 3 4 5 6 7 8 9 10 11 12 13"; got != want {
		t.Errorf("events %s, want %s (%v)", got, want, lines.Err())
	}
}
