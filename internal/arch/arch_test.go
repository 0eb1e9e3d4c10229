// Package arch_test holds the architecture: the rooms, and which way the arrows
// between them point.
package arch_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

const module = "github.com/coatcheck/coatcheck/"

// arrows are the rooms and what each may import of this module. A room that is
// missing here has no place yet: give it one.
var arrows = map[string][]string{
	"api":                   {},
	"api/client":            {"api"},
	"api/gateway":           {"api/intercept", "internal/config", "internal/gateway", "web"},
	"api/intercept":         {},
	"api/webhook":           {},
	"api/worker":            {"api", "internal/broker", "internal/loop"},
	"internal/arch":         {},
	"internal/bench":        {"api", "api/webhook"},
	"internal/bench/floor":  {},
	"internal/bench/versus": {"api/webhook", "api/worker", "internal/bench", "internal/bench/floor"},
	"internal/auth":         {},
	"internal/broker":       {"api", "internal/correlation", "internal/loop", "internal/redisurl"},
	"internal/callback":     {"api", "api/webhook", "internal/broker", "internal/correlation", "internal/loop"},
	"internal/command":      {"api/worker"},
	"internal/config":       {"api", "api/intercept", "api/webhook", "internal/auth", "internal/correlation", "internal/redisurl", "internal/span"},
	"internal/conformance":  {"api", "api/client"},
	"internal/contracttest": {"api"},
	"internal/correlation":  {},
	"internal/demo":         {"api/worker"},
	"internal/discovery":    {},
	"internal/embedded":     {"internal/quickredis"},
	"internal/faults":       {},
	"internal/fleet":        {"internal/redistest"},
	"internal/gateway":      {"api/intercept", "internal/broker", "internal/callback", "internal/config", "internal/httpapi", "internal/metrics", "internal/pull", "internal/steward", "internal/upstream", "internal/watch"},
	"internal/httpapi":      {"api", "api/intercept", "internal/auth", "internal/broker", "internal/correlation", "internal/pull", "internal/sse", "internal/span", "internal/watch"},
	"internal/inbox":        {"api/webhook"},
	"internal/ledger":       {},
	"internal/linear":       {},
	"internal/localredis":   {},
	"internal/loop":         {},
	"internal/metrics":      {"internal/broker", "internal/callback"},
	"internal/pull":         {"internal/broker", "internal/loop"},
	"internal/quickredis":   {},
	"internal/powercut":     {},
	"internal/readme":       {},
	"internal/redistest":    {"internal/quickredis"},
	"internal/redisurl":     {},
	"internal/simulation":   {},
	"internal/scale":        {},
	"internal/span":         {},
	"internal/sse":          {},
	"internal/steward":      {"internal/broker", "internal/loop"},
	"internal/upstream":     {"api", "api/worker", "internal/loop"},
	"internal/watch":        {"internal/broker", "internal/correlation", "internal/loop"},
	"web":                   {},
	"api/worker/examples/go": {
		"api/worker",
	},
	"cmd/coatcheck": {
		"api", "api/client", "api/webhook", "api/worker", "internal/auth", "internal/bench", "internal/command", "internal/config", "internal/conformance", "internal/demo", "internal/discovery",
		"internal/embedded", "internal/gateway", "internal/inbox", "internal/localredis", "web",
	},
}

// only says which rooms may import a library.
var only = map[string][]string{
	"github.com/redis/go-redis/v9": {"internal/broker", "internal/redistest", "internal/bench/floor"},
	"github.com/go-chi/chi/v5":     {"internal/httpapi", "internal/bench/floor"},
}

func TestArrowsPointDown(t *testing.T) {
	list := exec.Command("go", "list", "-json=ImportPath,Imports,Doc,GoFiles", "./...")
	list.Dir, list.Stderr = "../..", os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath, Doc string
			Imports         []string
			GoFiles         []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		room := strings.TrimPrefix(p.ImportPath, module)
		allowed, known := arrows[room]
		if !known {
			t.Errorf("room %s has no arrows in this test", room)
		}
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("room %s has no package doc", room)
		}
		for _, path := range p.Imports {
			if below, ours := strings.CutPrefix(path, module); ours && !slices.Contains(allowed, below) {
				t.Errorf("%s imports %s: that arrow points the wrong way", room, below)
			}
			if rooms, limited := only[path]; limited && !slices.Contains(rooms, room) {
				t.Errorf("%s imports %s, which is for %v", room, path, rooms)
			}
		}
	}
}

// A file above 500 lines has its reason on line 1.
func TestFilesStaySmall(t *testing.T) {
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() && strings.HasPrefix(d.Name(), ".git") {
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".gen.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if n := strings.Count(string(text), "\n"); n > 500 && !strings.HasPrefix(string(text), "// This file is long because") {
			t.Errorf("%s has %d lines", path, n)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestComposeFile(t *testing.T) {
	raw, err := os.ReadFile("../../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: "../..", ConfigFiles: []types.ConfigFile{{Filename: "docker-compose.yml", Content: raw}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := project.ServiceNames(); len(got) != 4 {
		t.Errorf("services %v, want redis, two gateways and a worker", got)
	}
	redis := strings.Join(project.Services["redis"].Command, " ")
	for _, want := range []string{"--appendonly yes", "--maxmemory-policy noeviction"} {
		if !strings.Contains(redis, want) {
			t.Errorf("redis runs as %q, without %s", redis, want)
		}
	}
	for name, s := range project.Services {
		if s.Build == nil {
			continue
		}
		if _, err := os.Stat(filepath.Join("../..", s.Build.Dockerfile)); err != nil && !filepath.IsAbs(s.Build.Dockerfile) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
