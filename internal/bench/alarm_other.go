//go:build !linux

package bench

import (
	"os"
	"time"
)

// alarm wakes a goroutine at an instant, as exactly as the runtime's timers do.
type alarm struct{ closed chan struct{} }

func newAlarm() (*alarm, error) { return &alarm{make(chan struct{})}, nil }

// wait returns an error once the alarm is closed.
func (a *alarm) wait(until time.Time) error {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-a.closed:
		return os.ErrClosed
	}
}

func (a *alarm) close() { close(a.closed) }
