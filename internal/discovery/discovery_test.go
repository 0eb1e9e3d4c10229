package discovery_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/discovery"
)

// home gives the test a directory of its own to publish in.
func home(t *testing.T) (dir string) {
	t.Helper()
	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	return filepath.Join(base, "coatcheck-"+strconv.Itoa(os.Getuid()))
}

// process is one that lives as long as the test.
func process(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	return cmd.Process.Pid
}

func publish(t *testing.T, url string, pid int) func() {
	t.Helper()
	withdraw, err := discovery.Publish(discovery.Dev{URL: url, RedisURL: "redis://:secret@127.0.0.1:1", PID: pid})
	if err != nil {
		t.Fatal(err)
	}
	return withdraw
}

func find(t *testing.T, want string) {
	t.Helper()
	d, err := discovery.Find()
	if want == "" && !errors.Is(err, discovery.ErrNone) || want != "" && (err != nil || d.URL != want) {
		t.Errorf("found %q, %v; want %q", d.URL, err, want)
	}
}

func TestPublishFindWithdraw(t *testing.T) {
	dir := home(t)
	find(t, "")
	withdraw := publish(t, "http://one", os.Getpid())
	find(t, "http://one")
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, fmt.Sprintf("dev-%d.json", os.Getpid())): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v, it has a password", path, info, err, want)
		}
	}
	withdraw()
	find(t, "")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestLatestOfTwo(t *testing.T) {
	dir := home(t)
	pid := process(t)
	first := publish(t, "http://first", pid)
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(filepath.Join(dir, fmt.Sprintf("dev-%d.json", pid)), past, past); err != nil {
		t.Fatal(err)
	}
	second := publish(t, "http://second", os.Getpid())
	find(t, "http://second")
	second()
	find(t, "http://first") // it was there all the time
	first()
	find(t, "")
}

func TestWhatADeadOneLeftIsNotFound(t *testing.T) {
	dir := home(t)
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	publish(t, "http://dead", cmd.ProcessState.Pid())
	find(t, "")
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	for name, text := range map[string]string{
		"dev-1.json": "{", "dev-2.json": `{"url":"http://x","pid":3}`, fmt.Sprintf("dev-%d.json", os.Getpid()): `{"pid":` + strconv.Itoa(os.Getpid()) + `}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	find(t, "") // garbage
}

// Where the directory is for everybody, somebody else may have made it first.
func TestForeignDirectoryIsNotUsed(t *testing.T) {
	dir := home(t)
	withdraw := publish(t, "http://one", os.Getpid())
	defer withdraw()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	find(t, "")
	if _, err := discovery.Publish(discovery.Dev{URL: "http://two", PID: os.Getpid()}); err == nil || !strings.Contains(err.Error(), "this user alone") {
		t.Errorf("published: %v", err)
	}
	elsewhere := t.TempDir()
	if err := errors.Join(os.RemoveAll(dir), os.Symlink(elsewhere, dir)); err != nil {
		t.Fatal(err)
	}
	find(t, "")
	if _, err := discovery.Publish(discovery.Dev{URL: "http://two", PID: os.Getpid()}); err == nil {
		t.Error("published through a link")
	}
}
