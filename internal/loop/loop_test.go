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

func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, other := loop.Jitter("one", time.Second), loop.Jitter("other", time.Second)
		if one == other || one != loop.Jitter("one", time.Second) {
			t.Errorf("%v and %v, want two that stay", one, other)
		}
		sum := 0.0
		for range 1000 {
			time.Sleep(time.Millisecond)
			c := loop.Chance("one")
			if c < 0 || c >= 1 {
				t.Fatal(c)
			}
			sum += c
		}
		if sum < 450 || sum > 550 {
			t.Errorf("a thousand come to %v, want about 500", sum)
		}
	})
}
