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
		said := func() int { return bytes.Count(log.Bytes(), []byte("held up")) }
		for range 250 {
			trouble.Warn("held up", "error", "away")
			time.Sleep(100 * time.Millisecond)
		}
		if said() != 3 || bytes.Count(log.Bytes(), []byte("error=away for=")) != 2 || !bytes.Contains(log.Bytes(), []byte("for=20s\n")) {
			t.Errorf("in 25 s, want three lines, the last of 20 s:\n%s", &log)
		}
		time.Sleep(5 * time.Second)
		trouble.Warn("held up") // it was over: this is another one
		if said() != 4 || !bytes.HasSuffix(log.Bytes(), []byte("msg=\"held up\"\n")) {
			t.Errorf("after a rest, want a fourth line without how long:\n%s", &log)
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
