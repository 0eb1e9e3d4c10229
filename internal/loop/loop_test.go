package loop_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coatcheck/coatcheck/internal/loop"
)

func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), 90*time.Second)
		defer stop()
		begun, rounds := time.Now(), 0
		for loop.Rest(ctx, time.Minute) {
			rounds++
		}
		if took := time.Since(begun); rounds != 1 || took != 90*time.Second {
			t.Errorf("%d rounds in %v, want 1 in 90 s", rounds, took)
		}
		if loop.Rest(ctx, 0) {
			t.Error("it goes on after the end")
		}
	})
}

func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		trouble := loop.Trouble{Log: slog.New(slog.NewTextHandler(&log, nil))}
		for range 25 {
			trouble.Warn("held up")
			time.Sleep(100 * time.Millisecond)
		}
		if lines := bytes.Count(log.Bytes(), []byte("held up")); lines != 3 {
			t.Errorf("%d lines in 2.5 s, want 3", lines)
		}
	})
}
