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
	secret := file(t, "whsec_from_file\n")
	c, err := config.Load(path, []string{"COATCHECK_ADDR=127.0.0.1:2", "COATCHECK_DEFAULTS_TIMEOUT=7s", "COATCHECK_CALLBACKS_SECRET_FILE=" + secret, "HOME=/x", "COATCHECK_CALLBACKS_ALLOW_CIDRS=10.0.0.0/8,127.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Addr != "127.0.0.1:2" || c.MaxBody != 1<<20 || c.Log.Level != "debug" || c.Log.Format != "auto" ||
		c.Defaults.Timeout != 7*time.Second || c.Services["echo"].Lease != time.Minute || c.Callbacks.Secret != "whsec_from_file" || len(c.Callbacks.AllowCIDRs) != 2 {
		t.Errorf("%+v", c)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
}

func TestRefusesWhatItDoesNotKnow(t *testing.T) {
	for text, want := range map[string]string{
		"adr: x\n":                            "adr",
		"log: {levle: debug}\n":               "levle",
		"max_body: much\n":                    "much",
		"auth: {keys: [{hash: x}]}\n":         "hash",
		"log: {level: loud}\n":                "loud",
		"defaults: {timeout: 1ms}\n":          "defaults.timeout",
		"services: {Up: {}}\n":                "Up",
		"callbacks: {allow_cidrs: [x]}\n":     "allow_cidrs",
		"bounds: {max_retention: 2000h}\n":    "168h",
		"partitions: 5000\n":                  "4096",
		"auth: {keys: [], more: x}\n":         "more",
		"services: {echo: {lease: 1s, a: 1}}": "a",
	} {
		c, err := config.Load(file(t, text), nil)
		if err == nil {
			err = c.Check()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want it to name %q", text, err, want)
		}
	}
	if _, err := config.Load("", []string{"COATCHECK_ADDRESS=x"}); err == nil || !strings.Contains(err.Error(), "COATCHECK_ADDRESS") {
		t.Errorf("unknown variable: %v", err)
	}
}

func TestAuth(t *testing.T) {
	for text, want := range map[string]bool{"auth: none\n": true, "": true, "auth: {keys: []}\n": false} {
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
