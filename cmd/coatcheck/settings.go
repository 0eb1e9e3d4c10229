package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"

	"github.com/coatcheck/coatcheck/internal/config"
)

// settings loads the configuration that a command runs with. Flags are put on
// top by flags, and everything is checked.
func settings(path string, flags func(*config.Config)) (config.Config, error) {
	if path == "" {
		path = os.Getenv(config.Prefix + "CONFIG")
	}
	c, err := config.Load(path, os.Environ())
	if err != nil {
		return c, usage{err}
	}
	flags(&c)
	if err := c.Check(); err != nil {
		return c, usage{err}
	}
	return c, nil
}

// logger writes to w as the configuration says.
func logger(l config.Log, w *os.File) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // checked by Config.Check
	options := &slog.HandlerOptions{Level: level}
	switch {
	case l.Format == "json":
		return slog.New(slog.NewJSONHandler(w, options))
	case l.Format == "auto" && isTerminal(w):
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: "15:04:05.000"}))
	default:
		return slog.New(slog.NewTextHandler(w, options))
	}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func out(c *cobra.Command) io.Writer { return c.OutOrStdout() }
