package fleet

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// overlaid names the overlay with which the programs of a fleet are built.
const overlaid = "FLEET_OVERLAY" // not COATCHECK_…, which a gateway takes for a setting

// Plant is a bug in a source file of this module: a test that has never failed shows
// nothing.
type Plant struct {
	File      string // from the root of the module
	Good, Bad string // text that is there, and what stands in its place; the first counts
}

// Test runs tests of the package in which the calling test is, in a process of its own,
// with the bug in everything that they use, and the processes that they start. It returns
// what they said, and whether they failed.
func (p Plant) Test(t *testing.T, args ...string) (said string, failed bool) {
	t.Helper()
	overlay := p.overlay(t)
	c := exec.CommandContext(t.Context(), "go", append([]string{"test", "-count=1", "-timeout=15m", "-overlay", overlay, "."}, args...)...)
	c.Env = append(os.Environ(), overlaid+"="+overlay)
	out, err := c.CombinedOutput()
	said = string(out)
	if strings.Contains(said, "[build failed]") || strings.Contains(said, "no tests to run") || strings.Contains(said, "the gateway is not ready") {
		t.Fatalf("with the bug, nothing runs:\n%s", said)
	}
	return said, err != nil
}

// overlay writes the file with the bug, and what has the go command take it for the
// other.
func (p Plant) overlay(t *testing.T) string {
	t.Helper()
	mod, err := exec.CommandContext(t.Context(), "go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(filepath.Dir(string(mod)), p.File)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), p.Good) {
		t.Fatalf("%s does not have %q any more", p.File, p.Good)
	}
	dir := t.TempDir()
	planted, overlay := filepath.Join(dir, filepath.Base(file)), filepath.Join(dir, "overlay.json")
	replaced, err := json.Marshal(map[string]map[string]string{"Replace": {file: planted}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{planted: []byte(strings.Replace(string(text), p.Good, p.Bad, 1)), overlay: replaced} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return overlay
}
