package localredis

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

const askTimeout = time.Second // a server on the same machine; one that is slower is not ready

var (
	errLoading = errors.New("redis-server is loading its data")
	errTaken   = errors.New("the lock is taken")
)

// ask sends one command by hand: this room knows no client library.
func ask(socket, command string) (answer string, err error) {
	c, err := net.DialTimeout("unix", socket, askTimeout)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(askTimeout))
	if _, err := io.WriteString(c, command+"\r\n"); err != nil {
		return "", err
	}
	buffer := make([]byte, 256)
	n, err := c.Read(buffer)
	return strings.TrimSpace(string(buffer[:n])), err
}

// ping is nil where the server is ready. errLoading.
func ping(socket string) error {
	answer, err := ask(socket, "PING")
	switch {
	case err != nil:
		return err
	case strings.HasPrefix(answer, "-LOADING"):
		return errLoading
	case answer != "+PONG":
		return fmt.Errorf("redis-server says %q", answer)
	}
	return nil
}

// shutdown has the server write what it has and end. Only a refusal is an
// error: a server that hangs up does as it was told.
func shutdown(socket string) error {
	if answer, _ := ask(socket, "SHUTDOWN"); strings.HasPrefix(answer, "-") {
		return fmt.Errorf("redis-server says %q", answer)
	}
	return nil
}

// Kinds of locks.
const (
	shared    = syscall.LOCK_SH
	exclusive = syscall.LOCK_EX
)

// lock opens a file and locks it without waiting. errTaken.
func lock(path string, kind int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := relock(f, kind); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func relock(f *os.File, kind int) error {
	err := syscall.Flock(int(f.Fd()), kind|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errTaken
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}
