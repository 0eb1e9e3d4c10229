package readme_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/coatcheck/coatcheck/internal/redistest"
)

var tokens = regexp.MustCompile(uuids.String() + `\.\d+\.[0-9a-f]+`)

// TestSessionOfAWorker types what api/worker/README.md shows, command by command.
func TestSessionOfAWorker(t *testing.T) {
	redis, addr := redistest.Start(t), freeAddr(t)
	run(t, addr, binary(t), "serve", "--addr", addr, "--redis-url", redis.URL)
	session := shownIn(sectionOf(t, "api/worker/README.md", "## By hand", "## The rules"))
	if len(session) < 9 {
		t.Fatalf("only %d commands found", len(session))
	}
	id, token := "", ""
	for _, e := range session {
		name, value, set := strings.Cut(strings.Fields(e.command)[0], "=")
		switch {
		case set && name == "ID" && uuids.MatchString(value):
			continue
		case set && name == "TOKEN" && tokens.MatchString(value):
			continue
		}
		// As on a terminal: without one, redis-cli leaves quotes and numbering out.
		script := `redis-cli() { command redis-cli -u "$REDIS_URL" --no-raw "$@"; }` + "\n" + ports.ReplaceAllString(e.command, addr)
		shell := exec.Command("bash", "-c", script)
		shell.Env = append(os.Environ(), "REDIS_URL="+redis.URL, "ID="+id, "TOKEN="+token)
		out, err := shell.CombinedOutput()
		if err != nil {
			t.Fatalf("$ %s\n%v\n%s", e.command, err, out)
		}
		if id == "" {
			id = uuids.FindString(string(out))
		}
		if token == "" {
			token = tokens.FindString(string(out))
		}
		got := strings.TrimSpace(strings.ReplaceAll(string(out), "\r", ""))
		if !pattern(e.output).MatchString(got) {
			t.Errorf("$ %s\nanswers\n%s\nthe page shows\n%s", e.command, got, e.output)
		}
	}
	if id == "" || token == "" {
		t.Errorf("ID %q, token %q", id, token)
	}
}
