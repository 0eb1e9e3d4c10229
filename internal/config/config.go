// Package config is what an operator can set: one checked struct from
// defaults, then a YAML file, then the environment, then flags, each over the
// one before.
//
//	c, err := config.Load(path, os.Environ()) // flags are put on top by cmd
//	err = c.Check()
//
// An unknown key is an error, in the file and in the environment: a typing
// mistake must not pass in silence. A secret may also be read from a file, by
// the variable's name with _FILE behind it.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/goccy/go-yaml"

	"github.com/coatcheck/coatcheck/internal/auth"
)

// Prefix of all environment variables.
const Prefix = "COATCHECK_"

// Config is everything that can be set. See Default for the values that hold
// where nothing is; meaning is what the table in the README says.
type Config struct {
	Addr               string        `yaml:"addr" env:"ADDR" meaning:"address to listen on"`
	RedisURL           string        `yaml:"redis_url" env:"REDIS_URL" secret:"yes" meaning:"redis://, redis+sentinel:// or redis+cluster://, rediss for TLS, or unix://; empty starts the redis-server on PATH"`
	DataDir            string        `yaml:"data_dir" env:"DATA_DIR" meaning:"where that redis-server keeps its append-only file"`
	Partitions         int           `yaml:"partitions" env:"PARTITIONS" meaning:"shards of the correlation table; may be raised, never lowered; 0 keeps what is"`
	Durability         Durability    `yaml:"durability" env:"DURABILITY" meaning:"what Redis must have done before a 202: memory, local, fsync or replicated(n); auto promises what Redis is set to"`
	DurabilityWait     time.Duration `yaml:"durability_wait" env:"DURABILITY_WAIT" meaning:"how long replicated(n) waits for its replicas before a 504"`
	DurabilityAsserted bool          `yaml:"durability_asserted" env:"DURABILITY_ASSERTED" meaning:"believe durability where Redis does not let its settings be read"`
	PublicURL          string        `yaml:"public_url" env:"PUBLIC_URL" meaning:"stands before the links in documents; empty makes them paths"`
	IDKey              string        `yaml:"id_key" env:"ID_KEY" secret:"yes" meaning:"keys of correlation IDs, hexadecimal, comma-separated, the minting one first; empty keeps one in Redis"`
	MaxBody            Size          `yaml:"max_body" env:"MAX_BODY" meaning:"largest request body and reply"`
	MaxInflight        Size          `yaml:"max_inflight_body" env:"MAX_INFLIGHT_BODY" meaning:"memory for all request bodies at once"`
	DrainDelay         time.Duration `yaml:"drain_delay" env:"DRAIN_DELAY" meaning:"of a drain: for how long calls are still taken while /readyz is 503 already"`
	DrainTimeout       time.Duration `yaml:"drain_timeout" env:"DRAIN_TIMEOUT" meaning:"how long a drain may take before it is cut short"`
	Log                Log           `yaml:"log" envPrefix:"LOG_"`
	Callbacks          Callbacks     `yaml:"callbacks" envPrefix:"CALLBACKS_"`
	Defaults           Limits        `yaml:"defaults" envPrefix:"DEFAULTS_"`
	Bounds             Bounds        `yaml:"bounds" envPrefix:"BOUNDS_"`
	Admin              Admin         `yaml:"admin" envPrefix:"ADMIN_"`
	Auth               Auth          `yaml:"auth" env:"-"`

	Services     map[string]Service   `yaml:"services" env:"-"`
	Interceptors map[string]Intercept `yaml:"interceptors" env:"-"` // by service, "*" for all
}

// Log says how to log.
type Log struct {
	Level  string `yaml:"level" env:"LEVEL" meaning:"debug, info, warn or error"`
	Format string `yaml:"format" env:"FORMAT" meaning:"text, json, or auto: text on a terminal"`
}

// Callbacks says how webhooks are sent.
type Callbacks struct {
	Secret     string   `yaml:"secret" env:"SECRET" secret:"yes" meaning:"signs callbacks, whsec_…; empty takes none"`
	AllowCIDRs []string `yaml:"allow_cidrs" env:"ALLOW_CIDRS" meaning:"private networks that callbacks may go to, comma-separated"`
}

// Service is one service: what holds for its requests, and who answers them.
type Service struct {
	Limits `yaml:",inline"`

	Upstream            string `yaml:"upstream"`             // URL of an HTTP backend that answers it; empty: workers do
	UpstreamConcurrency int    `yaml:"upstream_concurrency"` // most calls of this gateway to it at once; 0 for 64
}

// Limits are what holds for the requests of one service, or of all.
type Limits struct {
	Timeout      time.Duration `yaml:"timeout" env:"TIMEOUT" meaning:"accepted → outcome"`
	StartTimeout time.Duration `yaml:"start_timeout" env:"START_TIMEOUT" meaning:"accepted → claimed; 0 for none"`
	RunTimeout   time.Duration `yaml:"run_timeout" env:"RUN_TIMEOUT" meaning:"claimed → replied, each attempt; 0 for none"`
	Retention    time.Duration `yaml:"retention" env:"RETENTION" meaning:"outcome → forgotten"`
	Lease        time.Duration `yaml:"lease" env:"LEASE" meaning:"how long a silent worker keeps a request"`
	MaxAttempts  int           `yaml:"max_attempts" env:"MAX_ATTEMPTS" meaning:"attempts before a request fails"`
	Backoff      time.Duration `yaml:"backoff" env:"BACKOFF" meaning:"before the second attempt; doubles from there, with jitter"`
	MaxQueued    int           `yaml:"max_queued" env:"MAX_QUEUED" meaning:"requests without a worker above which more are refused; each partition has its share, of a service with concurrency one has all"`

	Concurrency    int `yaml:"concurrency" env:"CONCURRENCY" meaning:"requests of a service at workers at once; 0 for no limit"`
	KeyConcurrency int `yaml:"key_concurrency" env:"KEY_CONCURRENCY" meaning:"the same of one Coatcheck-Concurrency-Key"`

	Coalesce     bool          `yaml:"coalesce" env:"COALESCE" meaning:"requests with the same content that are open together share one run"`
	CacheTTL     time.Duration `yaml:"cache_ttl" env:"CACHE_TTL" meaning:"how long a reply answers requests with the same content; 0 where the worker says so"`
	CacheHeaders []string      `yaml:"cache_headers" env:"CACHE_HEADERS" meaning:"forwarded headers that count as content, comma-separated"`

	MaxEvents     int `yaml:"max_events" env:"MAX_EVENTS" meaning:"progress and partial replies of a request that are kept; the oldest go first"`
	MaxEventBytes int `yaml:"max_event_bytes" env:"MAX_EVENT_BYTES" meaning:"the same in bytes"`
}

// Bounds are what a request may ask for.
type Bounds struct {
	MinTimeout   time.Duration `yaml:"min_timeout" env:"MIN_TIMEOUT" meaning:"shortest timeout of any kind"`
	MaxTimeout   time.Duration `yaml:"max_timeout" env:"MAX_TIMEOUT" meaning:"longest timeout of any kind"`
	MinRetention time.Duration `yaml:"min_retention" env:"MIN_RETENTION" meaning:"shortest retention"`
	MaxRetention time.Duration `yaml:"max_retention" env:"MAX_RETENTION" meaning:"longest retention, at most a week"`
	MaxDelay     time.Duration `yaml:"max_delay" env:"MAX_DELAY" meaning:"longest Coatcheck-Delay"`
}

// Admin says where operators look.
type Admin struct {
	Addr string `yaml:"addr" env:"ADDR" meaning:"address of a listener of its own for /metrics and /debug/pprof/; empty keeps /metrics at addr and has no pprof"`
}

// Auth is none, or a list of keys.
type Auth struct{ Keys auth.Keys }

// UnmarshalYAML takes `none` or a list of keys.
func (a *Auth) UnmarshalYAML(raw []byte) error {
	const wanted = "none, or keys: and a list as `coatcheck keys create` prints it"
	var text string
	if yaml.Unmarshal(raw, &text) == nil {
		if text != "none" {
			return inAuth{wrong{text, wanted}.Error()}
		}
		a.Keys = nil
		return nil
	}
	keys := struct {
		Keys auth.Keys `yaml:"keys"`
	}{}
	if err := yaml.UnmarshalWithOptions(raw, &keys, yaml.Strict()); err != nil {
		// Its places are counted from where auth begins, so they are left out.
		return inAuth{placed.ReplaceAllString(oneLine(err), "")}
	}
	if keys.Keys == nil {
		keys.Keys = auth.Keys{} // keys are needed, and nobody has one
	}
	a.Keys = keys.Keys
	return nil
}

// Size is a number of bytes: 10MiB, 64KiB, or a bare number.
type Size int64

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := string(text), int64(1)
	for suffix, bytes := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if rest, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = strings.TrimSpace(rest), bytes
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<40)/unit {
		return wrong{string(text), "a size such as 10MiB, 64KiB or a number of bytes"}
	}
	*s = Size(n * unit)
	return nil
}

// String is the largest whole unit.
func (s Size) String() string {
	for _, u := range []struct {
		name  string
		bytes Size
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if s >= u.bytes && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Default is what holds where nothing is set.
func Default() Config {
	return Config{
		Addr: "127.0.0.1:8080", DataDir: "data", Durability: "auto", DurabilityWait: time.Second, MaxBody: 10 << 20, MaxInflight: 256 << 20, DrainDelay: 3 * time.Second, DrainTimeout: 20 * time.Second,
		Log:      Log{Level: "info", Format: "auto"},
		Defaults: Limits{Timeout: 5 * time.Minute, Retention: 24 * time.Hour, Lease: 30 * time.Second, MaxAttempts: 3, Backoff: time.Second, MaxQueued: 100_000, KeyConcurrency: 1, MaxEvents: 1000, MaxEventBytes: 8 << 20},
		Bounds:   Bounds{MinTimeout: 100 * time.Millisecond, MaxTimeout: 24 * time.Hour, MinRetention: time.Second, MaxRetention: 7 * 24 * time.Hour, MaxDelay: 7 * 24 * time.Hour},
	}
}

// Load reads the file (none where path is empty) and the environment over the
// defaults. Errors name the key or the line.
func Load(path string, environ []string) (Config, error) {
	c := Default()
	if path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return c, fmt.Errorf("read the configuration: %w", err)
		}
		if len(bytes.TrimSpace(raw)) > 0 {
			if err := c.read(raw); err != nil {
				return c, fmt.Errorf("configuration %s: %w", path, err)
			}
		}
	}
	vars, err := variables(environ)
	if err != nil {
		return c, err
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) { // one by one, so that an error names its variable
		err := env.ParseWithOptions(&c, env.Options{Prefix: Prefix, Environment: map[string]string{name: vars[name]}})
		if parse, ok := errors.AsType[env.ParseError](err); ok {
			err = parse.Err
		}
		if number, ok := errors.AsType[*strconv.NumError](err); ok { // its words are for programmers
			err = wrong{number.Num, "a whole number"}
			if number.Func == "ParseBool" {
				err = wrong{number.Num, "true or false"}
			}
		}
		if err != nil {
			return c, fmt.Errorf("environment: %s: %w", name, err)
		}
	}
	return c, nil
}

// variables picks ours from the environment, reads _FILE ones, and refuses
// unknown ones.
func variables(environ []string) (map[string]string, error) {
	vars := map[string]string{}
	known := map[string]bool{} // name → secret
	for _, f := range Fields() {
		if f.Env != "" {
			known[f.Env] = f.Secret
		}
	}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, Prefix) || slices.Contains(clientVariables, name) || serviceLink.MatchString(e) {
			continue
		}
		if _, ok := known[name]; ok {
			vars[name] = value
			continue
		}
		base, isFile := strings.CutSuffix(name, "_FILE")
		if !isFile || !known[base] {
			return nil, fmt.Errorf("environment: there is no variable %s", name)
		}
		raw, err := os.ReadFile(value)
		if err != nil {
			return nil, fmt.Errorf("environment: %s: %w", name, err)
		}
		vars[base] = strings.TrimSpace(string(raw))
	}
	return vars, nil
}

// clientVariables belong to the client commands, not to a gateway.
var clientVariables = []string{Prefix + "URL", Prefix + "API_KEY", Prefix + "CONFIG"}

// serviceLink is what Kubernetes sets in every pod beside a Service that is
// called coatcheck; nobody wrote it, so it is no typing mistake.
var serviceLink = regexp.MustCompile(`^COATCHECK_(SERVICE_HOST=|SERVICE_PORT(_[A-Z0-9_]+)?=|PORT=[a-z]+://|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=)`)
