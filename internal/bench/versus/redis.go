package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const askTimeout = 10 * time.Second

// redis is a redis-server of one measurement, and a connection to ask it.
type redis struct {
	*process
	addr string
	c    net.Conn
	in   *bufio.Reader
}

// startRedis starts one with nothing kept on disk, unless args say so.
func startRedis(ctx context.Context, dir string, args ...string) (*redis, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is not on PATH: run `make tools`")
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	data := filepath.Join(dir, "redis-"+port)
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	args = append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", data, "--save", "", "--maxmemory-policy", "noeviction"}, args...)
	p, err := start(data, "redis-server", path, nil, args...)
	if err != nil {
		return nil, err
	}
	r := &redis{process: p, addr: addr}
	err = p.until(ctx, "its first answer", func() bool {
		if r.c == nil {
			if r.c, err = net.DialTimeout("tcp", addr, askTimeout); err != nil {
				r.c = nil
				return false
			}
			r.in = bufio.NewReader(r.c)
		}
		_, err := r.ask("PING")
		return err == nil
	})
	if err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

func (r *redis) url() string { return "redis://" + r.addr }

// stop ends it and forgets its data.
func (r *redis) stop() {
	if r == nil {
		return
	}
	if r.c != nil {
		r.c.Close()
	}
	_ = r.cmd.Process.Kill() // what it has is of no use
	<-r.over
	_ = os.RemoveAll(r.cmd.Dir)
}

// ask sends one command by hand and returns its answer as text.
func (r *redis) ask(command string) (string, error) {
	_ = r.c.SetDeadline(time.Now().Add(askTimeout))
	if _, err := io.WriteString(r.c, command+"\r\n"); err != nil {
		return "", fmt.Errorf("ask redis-server: %w", err)
	}
	line, err := r.in.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("ask redis-server: %w", err)
	}
	line = strings.TrimSpace(line)
	switch line[0] {
	case '-':
		return "", errors.New(line[1:])
	case '$':
		n, err := strconv.Atoi(line[1:])
		if err != nil || n < 0 {
			return "", err
		}
		text := make([]byte, n+2)
		_, err = io.ReadFull(r.in, text)
		return string(text[:n]), err
	default:
		return line[1:], nil
	}
}

// number asks for an integer; what is none is 0.
func (r *redis) number(command string) int {
	text, err := r.ask(command)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(text)
	return n
}

// info reads all sections.
func (r *redis) info() (map[string]int64, error) {
	text, err := r.ask("INFO")
	if err != nil {
		return nil, err
	}
	values := map[string]int64{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if n, err := strconv.ParseInt(value, 10, 64); ok && err == nil {
			values[name] = n
		}
	}
	return values, nil
}
