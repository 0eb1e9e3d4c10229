// Package discovery lets the client commands find a `coatcheck dev` on this
// machine: it leaves its address in a file that only its user can read.
package discovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Dev is a running `coatcheck dev`.
type Dev struct {
	URL      string `json:"url"`
	RedisURL string `json:"redis_url"` // has the password of the embedded Redis
	PID      int    `json:"pid"`
}

// ErrNone says that no `coatcheck dev` runs here.
var ErrNone = errors.New("no `coatcheck dev` was found on this machine: start one, or name a gateway with --url or COATCHECK_URL")

func path() string {
	base := os.Getenv("XDG_RUNTIME_DIR")
	if base == "" {
		base = os.TempDir()
	}
	return filepath.Join(base, "coatcheck-"+strconv.Itoa(os.Getuid()), "dev.json")
}

// Publish leaves the address; withdraw takes it back, if it is still ours.
func Publish(d Dev) (withdraw func(), err error) {
	file := path()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("publish the address: %w", err)
	}
	raw, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("publish the address: %w", err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return nil, fmt.Errorf("publish the address: %w", err)
	}
	return func() {
		if now, err := Find(); err == nil && now.PID == d.PID {
			os.Remove(file)
		}
	}, nil
}

// Find reads what a running `coatcheck dev` published. ErrNone.
func Find() (Dev, error) {
	raw, err := os.ReadFile(path())
	if err != nil {
		return Dev{}, ErrNone
	}
	var d Dev
	if json.Unmarshal(raw, &d) != nil || d.URL == "" {
		return Dev{}, ErrNone
	}
	return d, nil
}
