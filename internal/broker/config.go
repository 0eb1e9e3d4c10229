package broker

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	// protocolVersion is raised when an older gateway could no longer work on
	// the same data.
	protocolVersion = "3"
	// formerMemory is for how long a former number of partitions is remembered:
	// longer than any idempotency key lives, which is bound to its home, also that
	// of a request that is delayed for a month.
	formerMemory = 45 * 24 * time.Hour
	// raiseSettles is after how long a raised number of partitions counts for
	// requests with an idempotency key. By then every gateway knows of it
	// (knownWithin) and has committed or given up what it had sent; from then on
	// submit.lua refuses the former home, so that one key has one home at a time.
	raiseSettles = 10 * time.Second
	raiseMargin  = time.Second // between the clocks of two servers of a cluster
	knownWithin  = 2 * time.Second
	// maxMisnamed is how many names are complained about; who announces more was heard.
	maxMisnamed = 100
)

var (
	configureScript = newPlainScript("configure")
	groupScript     = newPlainScript("group")
)

// deployment is what all gateways share, as last read. Never changed in place.
type deployment struct {
	partitions int
	parts      []partition // each by its number
	former     []former    // oldest first
	ring       correlation.Keyring
	founded    string // when the data began, in ms; another once Redis lost it
	read       time.Time
	services   map[string]ServiceConfig // known services
	paused     map[string]time.Time     // services that are not dispatched, and since when
	cacheable  map[string]bool          // services whose workers said how long a reply may be cached
}

// former is a number of partitions that was raised.
type former struct {
	partitions int
	at         time.Time // of the raise, by Redis' clock
	since      time.Time // the same or later, by ours
}

// settled tells whether the raise counts for idempotency keys.
func (f former) settled() bool { return time.Since(f.since) > raiseSettles+raiseMargin }

// keyed is the number of partitions that finds the home of a new request with
// an idempotency key, and until when, by Redis' clock; zero for no end.
func (d *deployment) keyed() (partitions int, until time.Time) {
	for _, f := range d.former {
		if !f.settled() {
			return f.partitions, f.at.Add(raiseSettles)
		}
	}
	return d.partitions, time.Time{}
}

// configure agrees with the other gateways on partitions and ID keys, or puts
// both back after Redis lost them.
func (b *Broker) configure(ctx context.Context) error {
	wanted, keys := b.options.Partitions, b.options.IDKey
	if now := b.shared.Load(); now != nil { // running: put back what was agreed
		wanted, keys = max(wanted, now.partitions), now.ring.String()
	} else if keys != "" {
		if _, err := correlation.ParseKeyring(keys); err != nil {
			return err
		}
	}
	var known []partition
	if now := b.shared.Load(); now != nil {
		known = now.parts
	}
	tags := tagsFor(max(wanted, 1), known)
	for {
		raw, err := configureScript.run(ctx, b.redis, partition{}, []string{configKey},
			protocolVersion, wanted, keys, formerMemory.Milliseconds(), tags)
		if err != nil {
			return fault("agree on the configuration", err)
		}
		v := texts(raw)
		if number(v[0]) > number(protocolVersion) || v[1] == "" {
			return fmt.Errorf("%w: of protocol %s, this gateway speaks %s: use a gateway of the same version, or another Redis database", ErrProtocol, v[0], protocolVersion)
		}
		if v[2] == "" { // the first gateway of the deployment makes the key
			keys = correlation.Keyring{correlation.NewKey()}.String()
			continue
		}
		return b.adopt(v)
	}
}

func (b *Broker) adopt(v []string) error {
	ring, err := correlation.ParseKeyring(v[2])
	if err != nil {
		return fmt.Errorf("read the ID keys of the deployment: %w", err)
	}
	if b.options.IDKey != "" { // the configured key mints, all verify
		own, err := correlation.ParseKeyring(b.options.IDKey)
		if err != nil {
			return err
		}
		ring = append(own[:1:1], ring...)
	}
	next := &deployment{partitions: int(number(v[1])), ring: ring, parts: parseTags(v[6]), founded: v[5], read: time.Now(), services: map[string]ServiceConfig{}}
	for text := range strings.FieldsSeq(v[3]) {
		count, raised, _ := strings.Cut(text, ":")
		at := millis(raised)
		next.former = append(next.former, former{int(number(count)), at, next.read.Add(-millis(v[4]).Sub(at))})
	}
	now := b.shared.Load()
	if wanted := b.options.Partitions; now == nil && wanted != 0 && wanted < next.partitions {
		b.log.Warn("the deployment has more partitions than are configured here, and they can't become fewer; using all",
			"configured", wanted, "partitions", next.partitions)
	}
	if now != nil {
		next.services, next.paused, next.cacheable = now.services, now.paused, now.cacheable
		if now.founded != next.founded { // whoever of us all put the configuration back
			b.counters.dataLost.Add(1)
			b.log.Error("Redis lost its data: requests accepted before are gone; the configuration is back")
		}
	}
	for !b.shared.CompareAndSwap(now, next) {
		now = b.shared.Load()
		next.services, next.paused, next.cacheable = now.services, now.paused, now.cacheable
	}
	return nil
}

// checkServer refuses a Redis that is too old.
func (b *Broker) checkServer(ctx context.Context) error {
	server, err := b.redis.at(ctx, configKey)
	if err != nil {
		return fault("find the masters of the Redis Cluster", err)
	}
	info, err := server.Info(ctx, "server").Result()
	if err != nil {
		if strings.Contains(err.Error(), "not supported") {
			return nil // the embedded one knows no sections
		}
		return fault("ask Redis for its version", err)
	}
	if version, _, _ := strings.Cut(infoField(info, "redis_version"), "."); version != "" && number(version) < 7 {
		return fmt.Errorf("Redis %s is too old: coatcheck needs 7.0 or newer", infoField(info, "redis_version"))
	}
	return nil
}

// refusals are what Redis says to who asks it in the wrong way, and what that means.
var refusals = map[string]string{
	"WRONGPASS": "Redis refuses the user or password of the URL (WRONGPASS)",
	"NOAUTH":    "Redis refuses the user or password of the URL (NOAUTH)",
	"NOPERM":    "Redis does not let the user of the URL do what is needed (NOPERM): ACL SETUSER … ~cc:* &cc:* +@all -@dangerous +info +config|get",

	"DB index is out of range":  "Redis has no database of the number in the URL (its setting databases)",
	"cluster support disabled":  "the URL says that this is a Redis Cluster, and it is a server by itself: redis:// in the place of redis+cluster://",
	"unknown command 'sentinel": "the URL names no Sentinels, but a Redis that they may look after; Sentinels commonly are at port 26379",
}

// refusal tells a Redis that answers, but not to us, from one that is away:
// waiting would not help. cluster says that the URL is that of one.
func refusal(err error, cluster bool) error {
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		return fmt.Errorf("the certificate of Redis can't be trusted: %w", untrusted.Err)
	}
	if strings.Contains(err.Error(), "certificate required") || strings.Contains(err.Error(), "bad certificate") {
		return errors.New("Redis wants a certificate of those who connect, which the URL does not name, or another one: …?cert=FILE&key=FILE")
	}
	if strings.Contains(err.Error(), "sentinels") && strings.Contains(err.Error(), "redis: nil") {
		return errors.New("no Sentinel knows a master by the name in the URL, redis+sentinel://host/NAME; redis-cli -p 26379 SENTINEL MASTERS lists those that there are")
	}
	if !cluster && strings.Contains(err.Error(), "MOVED ") {
		return errors.New("the URL names one node of a Redis Cluster, and must say that it is one: redis+cluster:// in the place of redis://")
	}
	for text, means := range refusals {
		if strings.Contains(err.Error(), text) {
			return errors.New(means)
		}
	}
	return err
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return value
		}
	}
	return ""
}

// plan is what holds for one request: its own options over its service's.
func (b *Broker) plan(s *Submission) ServiceConfig {
	own := ServiceConfig{
		Timeout: s.Timeout, StartTimeout: s.StartTimeout, RunTimeout: s.RunTimeout, Retention: s.Retention,
		MaxAttempts: s.MaxAttempts, Backoff: s.Backoff,
	}
	p := own.over(b.service(s.Service))
	p.Timeout += s.Delay
	if p.StartTimeout > 0 {
		p.StartTimeout += s.Delay
	}
	p.MaxQueued = b.mostQueued(p)
	return p
}

// mostQueued is how many requests of a service one partition may have without a worker:
// its share, or all where the service is bounded and so lives in one partition.
func (b *Broker) mostQueued(c ServiceConfig) int {
	if c.Concurrency > 0 {
		return c.MaxQueued
	}
	partitions := b.Partitions()
	return (c.MaxQueued + partitions - 1) / partitions
}

// service is what holds for a service: configuration over announcement over defaults.
func (b *Broker) service(name string) ServiceConfig {
	return b.options.Services[name].over(b.shared.Load().services[name]).over(b.options.Defaults)
}

// Services lists the known services by name.
func (b *Broker) Services() []string {
	return slices.Sorted(maps.Keys(b.shared.Load().services))
}

// askEvery is how often calls for services that nobody knows may ask Redis.
const askEvery = 100 * time.Millisecond

// KnowsService tells whether a service is configured or was ever announced. Where this
// process has not heard of it, Redis is asked, or has been since the call began: one
// that was announced before is never unknown.
func (b *Broker) KnowsService(ctx context.Context, service string) (bool, error) {
	if _, ok := b.shared.Load().services[service]; ok {
		return true, nil
	}
	if !api.ValidService(service) {
		return false, nil
	}
	begun := time.Now()
	loop.Rest(ctx, askEvery-b.services.age())
	if b.services.age() > time.Since(begun) {
		if err := b.refreshServices(ctx); err != nil {
			return false, err
		}
	}
	_, ok := b.shared.Load().services[service]
	return ok, nil
}

// announced is the value of a service in cc:services.
type announced struct {
	Lease string `json:"lease,omitempty"` // Go duration
}

// refreshServices reads the known services, adds the configured ones, and sees
// to it that each has its streams.
func (b *Broker) refreshServices(ctx context.Context) error {
	if err := b.services.read.take(ctx); err != nil {
		return err
	}
	defer b.services.read.give()
	b.services.begins()
	pipe := b.redis.commands.Pipeline()
	services, cacheable := pipe.HGetAll(ctx, servicesKey), pipe.SMembers(ctx, cacheableKey)
	if _, err := pipe.Exec(ctx); err != nil {
		return fault("read the known services", err)
	}
	known := services.Val()
	b.ignoreMisnamed(known)
	now := b.shared.Load()
	missing := map[string]string{}
	for name := range b.options.Services {
		if _, ok := known[name]; !ok {
			missing[name] = "{}"
		}
	}
	for name, c := range now.services { // Redis lost them
		if _, ok := known[name]; !ok {
			missing[name] = encodeAnnounced(Announcement{Lease: c.Lease})
		}
	}
	if err := b.announce(ctx, missing, nil); err != nil {
		return err
	}
	maps.Copy(known, missing)
	cached := make(map[string]bool, len(cacheable.Val()))
	for _, name := range cacheable.Val() {
		cached[name] = true
	}
	learned := make(map[string]ServiceConfig, len(known))
	var fresh []string
	for name, value := range known {
		learned[name] = decodeAnnounced(value)
		if _, ok := now.services[name]; !ok || missing[name] != "" {
			fresh = append(fresh, name)
		}
	}
	if err := b.ensureStreams(ctx, now.partitions, fresh); err != nil {
		return err
	}
	for { // only this method writes the services; the rest may change meanwhile
		next := *now
		next.services, next.cacheable = learned, cached
		if b.shared.CompareAndSwap(now, &next) {
			return nil
		}
		now = b.shared.Load()
	}
}

// ignoreMisnamed drops what a foreign worker announced under a name that can't
// be in URLs and keys. It is called with services.read taken.
func (b *Broker) ignoreMisnamed(known map[string]string) {
	for name := range known {
		if api.ValidService(name) {
			continue
		}
		delete(known, name)
		if b.services.ignored[name] || len(b.services.ignored) >= maxMisnamed {
			continue
		}
		if b.services.ignored == nil {
			b.services.ignored = map[string]bool{}
		}
		b.services.ignored[name] = true
		b.log.Warn("an announced service is ignored: its name is not allowed", "service", name, "allowed", api.ServiceNames)
	}
}

func decodeAnnounced(value string) ServiceConfig {
	var a announced
	if json.Unmarshal([]byte(value), &a) != nil {
		return ServiceConfig{} // somebody else's spelling: the service is known all the same
	}
	if lease, err := time.ParseDuration(a.Lease); err == nil && lease > 0 {
		return ServiceConfig{Lease: lease}
	}
	if seconds, err := strconv.Atoi(a.Lease); err == nil && seconds > 0 {
		return ServiceConfig{Lease: time.Duration(seconds) * time.Second}
	}
	return ServiceConfig{}
}

func encodeAnnounced(a Announcement) string {
	if a.Lease <= 0 {
		return "{}"
	}
	return fmt.Sprintf(`{"lease":%q}`, a.Lease)
}
