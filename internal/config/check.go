package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/intercept"
	"github.com/coatcheck/coatcheck/api/webhook"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redisurl"
	"github.com/coatcheck/coatcheck/internal/span"
)

// longestDrain leaves the rest of 25 s, after which supervisors kill, to what
// comes behind it: handing over, and stopping a redis-server.
const longestDrain = 20 * time.Second

// longestCache is as long as a reply may be kept for those who asked for it.
const longestCache = 7 * 24 * time.Hour

// fieldName is a token of RFC 9110, section 5.6.2.
var fieldName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// mostAtOnce is more than any service has at workers at once.
const mostAtOnce = 1_000_000

// largestBody is what Redis takes as one value (proto-max-bulk-len, as it comes).
const largestBody Size = 512 << 20

// bodyRoom is what reading takes beyond a body that does not tell its length.
const bodyRoom Size = 64 << 10

// What a request may keep of progress and partial replies: at least one of the
// largest size, and no more than one read brings.
const (
	mostEvents      = 100_000
	leastEventBytes = 256 << 10
	mostEventBytes  = 64 << 20
)

// Check says in one line what can't be, naming key, value and what is allowed.
func (c Config) Check() error {
	switch {
	case c.Partitions < 0 || c.Partitions > 4096:
		return fmt.Errorf("partitions: %d is outside 0..4096", c.Partitions)
	case !listenable(c.Addr):
		return fmt.Errorf("addr: %q is no host:port", c.Addr)
	case c.Admin.Addr != "" && !listenable(c.Admin.Addr):
		return fmt.Errorf("admin.addr: %q is no host:port", c.Admin.Addr)
	case !publicURL(c.PublicURL):
		return fmt.Errorf("public_url: %q is no http or https URL without a query", c.PublicURL)
	case c.MaxBody < 1 || c.MaxBody > largestBody:
		return fmt.Errorf("max_body: %s is outside 1..%s", c.MaxBody, largestBody)
	case c.MaxInflight < c.MaxBody+bodyRoom: // the largest body would be told to try again for ever
		return fmt.Errorf("max_inflight_body: %s is too little for one body of %s, the max_body: want %s more than that", c.MaxInflight, c.MaxBody, bodyRoom)
	case c.DrainTimeout <= 0 || c.DrainTimeout > longestDrain:
		return fmt.Errorf("drain_timeout: %s is outside 1ns..%s", span.Text(c.DrainTimeout), span.Text(longestDrain))
	case c.DrainDelay < 0 || c.DrainDelay >= c.DrainTimeout:
		return fmt.Errorf("drain_delay: %s must be at least 0 and below the drain_timeout, %s", span.Text(c.DrainDelay), span.Text(c.DrainTimeout))
	case !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level):
		return fmt.Errorf("log.level: %q is none of debug, info, warn, error", c.Log.Level)
	case !slices.Contains([]string{"auto", "text", "json"}, c.Log.Format):
		return fmt.Errorf("log.format: %q is none of auto, text, json", c.Log.Format)
	case c.Bounds.MinTimeout <= 0 || c.Bounds.MinTimeout > c.Bounds.MaxTimeout:
		return fmt.Errorf("bounds: min_timeout %s must be above 0 and at most max_timeout %s", span.Text(c.Bounds.MinTimeout), span.Text(c.Bounds.MaxTimeout))
	case c.Bounds.MaxDelay < 0 || c.Bounds.MaxDelay > 30*24*time.Hour:
		return fmt.Errorf("bounds.max_delay: %s is outside 0..720h", span.Text(c.Bounds.MaxDelay))
	case c.Bounds.MinRetention <= 0 || c.Bounds.MinRetention > c.Bounds.MaxRetention || c.Bounds.MaxRetention > 7*24*time.Hour:
		return fmt.Errorf("bounds: retention from %s to %s must be above 0 and within 168h", span.Text(c.Bounds.MinRetention), span.Text(c.Bounds.MaxRetention))
	}
	if c.RedisURL != "" {
		if _, err := redisurl.Parse(c.RedisURL); err != nil {
			return fmt.Errorf("redis_url: %w", err)
		}
	}
	for _, cidr := range c.Callbacks.AllowCIDRs {
		_, network := netip.ParsePrefix(cidr)
		if _, address := netip.ParseAddr(cidr); network != nil && address != nil {
			return fmt.Errorf("callbacks.allow_cidrs: %q is neither a network such as 10.0.0.0/8 nor an address", cidr)
		}
	}
	for secret := range strings.FieldsSeq(c.Callbacks.Secret) {
		if err := webhook.Check(secret); err != nil {
			return fmt.Errorf("callbacks.secret: %w", err)
		}
	}
	if c.IDKey != "" {
		if _, err := correlation.ParseKeyring(c.IDKey); err != nil {
			return fmt.Errorf("id_key: %w", err)
		}
	}
	if err := c.checkDurability(); err != nil {
		return err
	}
	if err := c.Defaults.check("defaults", c.Bounds); err != nil {
		return err
	}
	for name, s := range c.Services {
		if !api.ValidService(name) {
			return fmt.Errorf("services: %q can't be the name of a service: want %s", name, api.ServiceNames)
		}
		if err := s.check("services."+name, c.Bounds); err != nil {
			return err
		}
		if err := s.checkUpstream("services." + name); err != nil {
			return err
		}
	}
	for name, i := range c.Interceptors {
		if name != intercept.All && !api.ValidService(name) {
			return fmt.Errorf("interceptors: %q can't be the name of a service: want %s, or * for all", name, api.ServiceNames)
		}
		if _, err := i.Interceptors(); err != nil {
			return fmt.Errorf("interceptors.%s: %w", name, err)
		}
	}
	if err := c.Auth.Keys.Check(); err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	return nil
}

// checkUpstream looks at who answers a service.
func (s Service) checkUpstream(at string) error {
	u, err := url.Parse(s.Upstream)
	ok := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && u.Fragment == ""
	switch {
	case err == nil && u.User != nil, err != nil && strings.Contains(s.Upstream, "@"): // not the value: it may have a password
		return fmt.Errorf("%s.upstream: has a user, which a backend is not called with; give its URL without one", at)
	case s.Upstream != "" && !ok:
		return fmt.Errorf("%s.upstream: %q is no http or https URL of a backend, without user and fragment", at, s.Upstream)
	case s.UpstreamConcurrency < 0 || s.UpstreamConcurrency > 10_000:
		return fmt.Errorf("%s.upstream_concurrency: %d is outside 1..10000", at, s.UpstreamConcurrency)
	case s.UpstreamConcurrency > 0 && s.Upstream == "":
		return fmt.Errorf("%s.upstream_concurrency: is set, and upstream is not", at)
	}
	return nil
}

func (s Limits) check(at string, b Bounds) error {
	for _, t := range []struct {
		key         string
		d, min, max time.Duration
	}{
		{"timeout", s.Timeout, b.MinTimeout, b.MaxTimeout},
		{"start_timeout", s.StartTimeout, b.MinTimeout, b.MaxTimeout},
		{"run_timeout", s.RunTimeout, b.MinTimeout, b.MaxTimeout},
		{"retention", s.Retention, b.MinRetention, b.MaxRetention},
		{"lease", s.Lease, time.Second, 24 * time.Hour},
	} {
		if t.d != 0 && (t.d < t.min || t.d > t.max) {
			return fmt.Errorf("%s.%s: %s is outside %s..%s", at, t.key, span.Text(t.d), span.Text(t.min), span.Text(t.max))
		}
	}
	if s.MaxAttempts < 0 || s.MaxAttempts > 100 {
		return fmt.Errorf("%s.max_attempts: %d is outside 1..100", at, s.MaxAttempts)
	}
	if s.Backoff != 0 && (s.Backoff < 10*time.Millisecond || s.Backoff > time.Hour) {
		return fmt.Errorf("%s.backoff: %s is outside 10ms..1h", at, span.Text(s.Backoff))
	}
	if s.Concurrency < 0 || s.Concurrency > mostAtOnce {
		return fmt.Errorf("%s.concurrency: %d is outside 0..%d, 0 being no limit", at, s.Concurrency, mostAtOnce)
	}
	if s.KeyConcurrency < 0 || s.KeyConcurrency > mostAtOnce {
		return fmt.Errorf("%s.key_concurrency: %d is outside 1..%d", at, s.KeyConcurrency, mostAtOnce)
	}
	if s.CacheTTL < 0 || s.CacheTTL > longestCache {
		return fmt.Errorf("%s.cache_ttl: %s is outside 0..%s, 0 being what the worker says", at, s.CacheTTL, longestCache)
	}
	for _, name := range s.CacheHeaders {
		if !fieldName.MatchString(name) {
			return fmt.Errorf("%s.cache_headers: %q is no name of a header", at, name)
		}
	}
	if s.MaxEvents < 0 || s.MaxEvents > mostEvents {
		return fmt.Errorf("%s.max_events: %d is outside 1..%d", at, s.MaxEvents, mostEvents)
	}
	if s.MaxEventBytes != 0 && (s.MaxEventBytes < leastEventBytes || s.MaxEventBytes > mostEventBytes) {
		return fmt.Errorf("%s.max_event_bytes: %d is outside %d..%d", at, s.MaxEventBytes, leastEventBytes, mostEventBytes)
	}
	if s.MaxQueued < 0 {
		return fmt.Errorf("%s.max_queued: %d is negative", at, s.MaxQueued)
	}
	return nil
}

func listenable(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n >= 0 && n < 1<<16
}

// publicURL tells whether text may stand before links.
func publicURL(text string) bool {
	u, err := url.Parse(text)
	return text == "" || err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" &&
		u.RawQuery == "" && u.Fragment == "" && u.User == nil && !strings.HasSuffix(text, "/")
}
