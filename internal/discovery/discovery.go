// Package discovery lets the client commands find a `coatcheck dev` on this
// machine: each leaves its address, and the password of its Redis, in a file
// that only its user can read.
//
//	withdraw, err := discovery.Publish(discovery.Dev{URL: …, RedisURL: …, PID: os.Getpid()})
//	defer withdraw()
//
//	found, err := discovery.Find() // the latest that still runs
//
// The files are in coatcheck-<uid>/ under XDG_RUNTIME_DIR, else under the
// directory for temporary files. There anybody could have made that directory
// first, to be called in our place: one that is not ours alone is not used.
package discovery

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// Dev is a running `coatcheck dev`.
type Dev struct {
	URL      string `json:"url"`
	RedisURL string `json:"redis_url"` // has the password of the embedded Redis
	PID      int    `json:"pid"`

	since time.Time
}

// ErrNone says that no `coatcheck dev` runs here.
var ErrNone = errors.New("no `coatcheck dev` runs here")

func directory() string {
	base := os.Getenv("XDG_RUNTIME_DIR")
	if base == "" {
		base = os.TempDir()
	}
	return filepath.Join(base, "coatcheck-"+strconv.Itoa(os.Getuid()))
}

func (d Dev) file() string { return filepath.Join(directory(), "dev-"+strconv.Itoa(d.PID)+".json") }

// Publish leaves the address of this process; withdraw takes it back.
func Publish(d Dev) (withdraw func(), err error) {
	if err := os.MkdirAll(directory(), 0o700); err != nil {
		return nil, fmt.Errorf("publish the address: %w", err)
	}
	if err := private(directory()); err != nil {
		return nil, fmt.Errorf("publish the address: %w", err)
	}
	raw, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("publish the address: %w", err)
	}
	// Written aside and renamed, so that nobody reads half of it.
	aside := d.file() + ".new"
	if err := errors.Join(os.WriteFile(aside, raw, 0o600), os.Rename(aside, d.file())); err != nil {
		return nil, fmt.Errorf("publish the address: %w", err)
	}
	return func() { os.Remove(d.file()) }, nil
}

// Find reads what the latest `coatcheck dev` that still runs has published.
// ErrNone. What a dead one left is removed.
func Find() (Dev, error) {
	if err := private(directory()); errors.Is(err, fs.ErrNotExist) {
		return Dev{}, ErrNone
	} else if err != nil {
		return Dev{}, fmt.Errorf("%w: %w", ErrNone, err)
	}
	files, err := filepath.Glob(filepath.Join(directory(), "dev-*.json"))
	if err != nil {
		return Dev{}, fmt.Errorf("look for `coatcheck dev`: %w", err)
	}
	var found []Dev
	for _, file := range files {
		if d, ok := read(file); ok {
			found = append(found, d)
		}
	}
	if len(found) == 0 {
		return Dev{}, ErrNone
	}
	return slices.MaxFunc(found, func(a, b Dev) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.PID, b.PID)) }), nil
}

func read(file string) (Dev, bool) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return Dev{}, false
	}
	info, err := os.Stat(file)
	if err != nil {
		return Dev{}, false
	}
	d := Dev{since: info.ModTime()}
	if json.Unmarshal(raw, &d) != nil || d.URL == "" || d.file() != file {
		return Dev{}, false
	}
	if err := syscall.Kill(d.PID, 0); errors.Is(err, syscall.ESRCH) {
		os.Remove(file)
		return Dev{}, false
	}
	return d, true
}

// private tells whether a directory is this user's and nobody else's.
func private(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || ok && int(owner.Uid) != os.Getuid() {
		return fmt.Errorf("%s is not a directory of this user alone (mode 0700)", dir)
	}
	return nil
}
