package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// profile writes a CPU profile of the gateway, for as long as a measurement lasts,
// to the directory that the user named. It costs the gateway a few percent.
func (k *stack) profile(name string, d time.Duration) error {
	answer, err := http.Get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%.0f", k.admin, max(1, d.Seconds())))
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("profile: answered %s", answer.Status)
	}
	var f *os.File
	for n := 1; ; n++ { // one for each round
		f, err = os.OpenFile(filepath.Join(k.lab.profiles, fmt.Sprintf("%s-%d.pprof", name, n)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err == nil {
			break
		}
		if !os.IsExist(err) {
			return fmt.Errorf("profile: %w", err)
		}
	}
	if _, err = io.Copy(f, answer.Body); err != nil {
		f.Close()
		return fmt.Errorf("profile: %w", err)
	}
	return f.Close()
}
