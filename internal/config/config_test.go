package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/config"
)

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "coatcheck.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEachSourceIsOverTheOneBefore(t *testing.T) {
	path := file(t, "addr: 127.0.0.1:1\nmax_body: 1MiB\nlog: {level: debug}\nservices: {echo: {lease: 1m}}\n")
	secret := file(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
	c, err := config.Load(path, []string{"COATCHECK_ADDR=127.0.0.1:2", "COATCHECK_DEFAULTS_TIMEOUT=7s", "COATCHECK_CALLBACKS_SECRET_FILE=" + secret, "HOME=/x", "COATCHECK_CALLBACKS_ALLOW_CIDRS=10.0.0.0/8,127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Addr != "127.0.0.1:2" || c.MaxBody != 1<<20 || c.Log.Level != "debug" || c.Log.Format != "auto" ||
		c.Defaults.Timeout != 7*time.Second || c.Services["echo"].Lease != time.Minute || c.Callbacks.Secret != "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" || len(c.Callbacks.AllowCIDRs) != 2 {
		t.Errorf("%+v", c)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
}

func TestRefusesWhatItDoesNotKnow(t *testing.T) {
	for text, want := range map[string]string{
		"adr: x\n":                                         "adr",
		"log: {levle: debug}\n":                            "levle",
		"max_body: much\n":                                 "much",
		"auth: {keys: [{hash: x}]}\n":                      "hash",
		"log: {level: loud}\n":                             "loud",
		"defaults: {timeout: 1ms}\n":                       "defaults.timeout",
		"services: {Up: {}}\n":                             "Up",
		"callbacks: {allow_cidrs: [x]}\n":                  "allow_cidrs",
		"bounds: {max_retention: 2000h}\n":                 "168h",
		"partitions: 5000\n":                               "4096",
		"auth: {keys: [], more: x}\n":                      "more",
		"services: {echo: {lease: 1s, a: 1}}":              "a",
		"partitions: 1.5\n":                                `[1:13] "1.5" is not a whole number`,
		"log:\n  level: info\ndefaults: {timeout: soon}\n": `[3:21] "soon" is not a duration`,
		"addr: [a]\n":                                      `[1:7] "[" can't stand here`,
		"addr: \"x\nlog: [\n":                              "[1:7]",
		"addr: localhost\n":                                "localhost",
		"addr: ':99999'\n":                                 "99999",
		"admin: {addr: '9090'}\n":                          "admin.addr",
		"redis_url: localhost:6379\n":                      "redis_url",
		"public_url: example.com\n":                        "public_url",
		"public_url: 'http://x/?a=b'\n":                    "public_url",
		"callbacks: {secret: hunter2}\n":                   "callbacks.secret: webhook secret is not whsec_",
		"id_key: abc\n":                                    "id_key: not a correlation ID key",
		"redis_url: redis://x:1/notadb\n":                  "redis_url: ",
		"max_body: 0\n":                                    "max_body: 0 is outside 1..512MiB",
		"defaults: {backoff: 9ms}\n":                       "defaults.backoff: 9ms is outside 10ms..1h",
		"services: {a: {backoff: 61m}}\n":                  "services.a.backoff: 1h1m is outside 10ms..1h",
		"services: {a: {concurrency: -1}}\n":               "services.a.concurrency: -1 is outside 0..1000000",
		"services: {a: {key_concurrency: -1}}\n":           "services.a.key_concurrency: -1 is outside 1..1000000",
		"defaults: {key_concurrency: 1000001}\n":           "defaults.key_concurrency: 1000001 is outside 1..1000000",
		"services: {a: {max_attempts: 101}}\n":             "services.a.max_attempts: 101 is outside 1..100",
		"bounds: {max_delay: 721h}\n":                      "bounds.max_delay: 721h is outside 0..720h",
		"max_body: 513MiB\n":                               "max_body: 513MiB is outside 1..512MiB",
		"max_inflight_body: 0\n":                           "max_inflight_body: ",
		"addr: ':1'\nauth: None\n":                         "auth: \"None\" is not none, or keys: ",
		"addr: ':1'\nauth: {keyz: []}\n":                   "auth: unknown field \"keyz\"",
		"max_body: 300MiB\n":                               "max_inflight_body: 256MiB is too little for one body of 300MiB",
		"auth:\nlog: {level: info}\n":                      "auth is empty",
		"drain_timeout: 21s\n":                             "1ns..20s",
		"drain_timeout: 3s\n":                              "drain_delay: 3s must be",
		"drain_delay: -1s\n":                               "at least 0",
		"durability: disk\n":                               `[1:13] "disk" is not one of auto, memory, local, fsync or replicated(n)`,
		"durability: replicated\n":                         "replicated(n)",
		"durability: replicated(0)\n":                      "replicated(n)",
		"durability_wait: 3s\n":                            "durability_wait: 3s is outside 1ms..2s",
		"durability_asserted: true\n":                      "durability does not say what is asserted",
	} {
		c, err := config.Load(file(t, text), nil)
		if err == nil {
			err = c.Check()
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want a line that names %q", text, err, want)
		}
	}
	for variable, want := range map[string]string{
		"COATCHECK_ADDRESS=x":                          "there is no variable COATCHECK_ADDRESS",
		"COATCHECK_ADDR_FILE=x":                        "there is no variable COATCHECK_ADDR_FILE", // it is no secret
		"COATCHECK_PORT=8080":                          "there is no variable COATCHECK_PORT",
		"COATCHECK_DEFAULTS_TIMEOUT=soon":              "COATCHECK_DEFAULTS_TIMEOUT: ",
		"COATCHECK_MAX_BODY=much":                      "COATCHECK_MAX_BODY: ",
		"COATCHECK_PARTITIONS=x":                       `COATCHECK_PARTITIONS: "x" is not a whole number`,
		"COATCHECK_DURABILITY_ASSERTED=perhaps":        `COATCHECK_DURABILITY_ASSERTED: "perhaps" is not true or false`,
		"COATCHECK_DURABILITY=often":                   "COATCHECK_DURABILITY: ",
		"COATCHECK_CALLBACKS_SECRET_FILE=/no/such/one": "COATCHECK_CALLBACKS_SECRET_FILE: open /no/such/one",
	} {
		if _, err := config.Load("", []string{variable}); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", variable, err, want)
		}
	}
	secret := "hunter2:6379"
	if err := func() error { c := config.Default(); c.RedisURL = secret; return c.Check() }(); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("an error with a secret: %v", err)
	}
}

// Kubernetes sets these beside a Service of our name.
func TestServiceLinksAreNoMistakes(t *testing.T) {
	c, err := config.Load("", []string{
		"COATCHECK_SERVICE_HOST=10.0.0.1", "COATCHECK_SERVICE_PORT=80", "COATCHECK_SERVICE_PORT_HTTP=80", "COATCHECK_PORT=tcp://10.0.0.1:80",
		"COATCHECK_PORT_80_TCP=tcp://10.0.0.1:80", "COATCHECK_PORT_80_TCP_PROTO=tcp", "COATCHECK_PORT_80_TCP_PORT=80", "COATCHECK_PORT_80_TCP_ADDR=10.0.0.1",
	})
	if err != nil || c.Addr != config.Default().Addr {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestAuth(t *testing.T) {
	for text, want := range map[string]bool{"auth: none\n": true, "auth: 'none' # for now\n": true, "auth: \"none\"\n": true, "": true, "auth: {keys: []}\n": false} {
		c, err := config.Load(file(t, text), nil)
		if err != nil || (c.Auth.Keys == nil) != want {
			t.Errorf("%q: open %v, %v", text, c.Auth.Keys == nil, err)
		}
	}
}

func TestTableNamesEveryField(t *testing.T) {
	table := config.Table()
	for _, want := range []string{"`log.level`", "`COATCHECK_LOG_LEVEL`", "`10MiB`", "`5m`", "`24h`", "`100ms`", "`20s`", "(or `_FILE`)"} {
		if !strings.Contains(table, want) {
			t.Errorf("the table lacks %s:\n%s", want, table)
		}
	}
}

// TestUpstreamKeepsItsPassword: what is said of a mistake goes into logs.
func TestUpstreamKeepsItsPassword(t *testing.T) {
	for _, url := range []string{"http://ops:hunter2@shop/", "http://ops:hunter2@shop:port/", "http://hunter2@shop/%zz"} {
		c := config.Default()
		c.Services = map[string]config.Service{"shop": {Upstream: url}}
		if err := c.Check(); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "services.shop.upstream") {
			t.Errorf("%s: %v", url, err)
		}
	}
	c := config.Default()
	c.Services = map[string]config.Service{"shop": {Upstream: "http://shop/@me"}}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
}

func TestDurability(t *testing.T) {
	for text, want := range map[string]struct {
		mode     string
		replicas int
	}{"auto": {"auto", 0}, "memory": {"memory", 0}, "local": {"local", 0}, "fsync": {"fsync", 0}, "replicated(2)": {"replicated", 2}} {
		inFile, err := config.Load(file(t, "durability: "+text+"\n"), nil)
		if err != nil || inFile.Durability.Mode() != want.mode || inFile.Durability.Replicas() != want.replicas || inFile.Check() != nil {
			t.Errorf("%s: %q, %v, %v", text, inFile.Durability, err, inFile.Check())
		}
		inVariable, err := config.Load("", []string{"COATCHECK_DURABILITY=" + text})
		if err != nil || inVariable.Durability != inFile.Durability {
			t.Errorf("%s: %q, %v", text, inVariable.Durability, err)
		}
	}
}
