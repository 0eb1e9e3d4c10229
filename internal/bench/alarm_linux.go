package bench

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm wakes a goroutine at an instant, to some microseconds. A timer of the Go
// runtime is up to a millisecond late in a process that is idle otherwise, which
// would be taken for a latency of the gateway.
type alarm struct {
	fd   int
	file *os.File // in the runtime's poller, so that no thread waits
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &alarm{fd, os.NewFile(uintptr(fd), "timerfd")}, nil
}

// wait returns an error once the alarm is closed.
func (a *alarm) wait(until time.Time) error {
	left := time.Until(until)
	if left <= 0 {
		return nil
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(left))}
	if err := unix.TimerfdSettime(a.fd, 0, &spec, nil); err != nil {
		return err
	}
	var times [8]byte
	_, err := a.file.Read(times[:])
	return err
}

func (a *alarm) close() { a.file.Close() }
