package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coatcheck/coatcheck/internal/bench"
)

const (
	openStreams  = 10_000
	streamFiles  = openStreams + 1000 // of this process, and of the gateway
	streamTime   = 3 * time.Minute    // of all that is done with them
	streamSettle = 17 * time.Second   // a heartbeat each has gone out by then
	idleTime     = 20 * time.Second   // for which CPU time is counted; above the heartbeats' 15 s
	openers      = 64                 // at once
)

// streamsRow: what open streams cost while nothing happens, and how fast they are
// told when something does.
func (l *lab) streamsRow(ctx context.Context) error {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur < streamFiles {
		return fmt.Errorf("a process may have %d files open, and %d streams need %d: raise the limit (ulimit -Hn)", files.Cur, openStreams, streamFiles)
	}
	if _, err := l.once(ctx, setup{kind: product}, l.idleStreams); err != nil {
		return err
	}
	f, err := l.inTurn(ctx, "10,000 woken", []setup{{kind: limit}, {kind: product}}, func(ctx context.Context, k *stack) (sample, error) {
		ids, err := k.submitted(ctx, 1)
		if err != nil {
			return sample{}, err
		}
		return k.wake(ctx, func(int) string { return ids[0] }, nil)
	})
	if err != nil {
		return err
	}
	l.rates("10,000 streams of one request woken at once, of the limit", "limit", atLeast(0.8, ""), bound{}, f)
	return nil
}

// idleStreams follows as many requests as there are streams. The gateway is a new
// one, which has no garbage of the submits that could be taken for room.
func (l *lab) idleStreams(ctx context.Context, k *stack) (sample, error) {
	ids, err := k.submitted(ctx, openStreams)
	if err != nil {
		return sample{}, err
	}
	if err := k.restart(ctx); err != nil {
		return sample{}, err
	}
	if err := pause(ctx, settled); err != nil {
		return sample{}, err
	}
	before := k.gateway.rss()
	s, err := k.wake(ctx, func(i int) string { return ids[i] }, func() error {
		if err := pause(ctx, streamSettle); err != nil {
			return err
		}
		rss, used := k.gateway.rss(), k.gateway.cpu()
		if err := pause(ctx, idleTime); err != nil {
			return err
		}
		used = k.gateway.cpu() - used
		l.bound("RSS of the gateway per idle SSE stream", atMost(15, " KB"), atMost(5, " KB"), float64(rss-before)/openStreams/1000,
			"%d streams of as many requests", openStreams)
		l.bound("CPU of the gateway per idle SSE stream, with heartbeats", atMost(3, " µs/s"), bound{}, float64(used)/float64(time.Microsecond)/openStreams/idleTime.Seconds(),
			"%.1f %% of a core for all", 100*used.Seconds()/idleTime.Seconds())
		return nil
	})
	l.say("  %d requests of a stream each answered: %.0f/s", openStreams, s.rate)
	return s, err
}

// submitted hands requests in and returns their IDs.
func (k *stack) submitted(ctx context.Context, n int) ([]string, error) {
	ids, body := make([]string, n), []byte(`{"pad":"`+strings.Repeat("x", small-10)+`"}`)
	return ids, each(min(n, openers), func(first int) error {
		c, err := bench.NewConn(ctx, k.url)
		if err != nil {
			return err
		}
		defer c.Close()
		for i := first; i < n; i += openers {
			if ids[i], err = c.Submit(service, body, time.Now().Add(startTime)); err != nil {
				return err
			}
		}
		return nil
	})
}

// restart starts the gateway anew, on the same Redis.
func (k *stack) restart(ctx context.Context) error {
	k.gateway.stop()
	addr := strings.TrimPrefix(k.url, "http://")
	return k.startProduct(ctx, addr, k.redis.url())
}

// wake opens all streams, has meanwhile look at them, and starts a worker. The
// rate is that of the outcomes, from the first that is seen to the last.
func (k *stack) wake(ctx context.Context, id func(int) string, meanwhile func() error) (sample, error) {
	streaming, stop := context.WithTimeout(ctx, streamTime)
	var all sync.WaitGroup
	defer func() {
		stop()
		all.Wait()
	}()
	var opened, ended atomic.Int64
	var first, last atomic.Int64 // outcomes, ns since began
	began := time.Now()
	deadline := began.Add(streamTime)
	slots := make(chan struct{}, openers)
	failed := make(chan error, openStreams)
	for i := range openStreams {
		select {
		case slots <- struct{}{}:
		case <-streaming.Done():
			return sample{}, fmt.Errorf("%d streams of %d were open in time", opened.Load(), openStreams)
		}
		c, err := bench.NewConn(streaming, k.url)
		if err != nil {
			return sample{}, err
		}
		all.Go(func() {
			seen := sync.OnceFunc(func() { <-slots })
			defer seen()
			failed <- c.Events("/v1/requests/"+id(i)+"/events", deadline, func(event string) {
				if event == "outcome" {
					at := int64(time.Since(began))
					first.CompareAndSwap(0, at)
					for was := last.Load(); at > was && !last.CompareAndSwap(was, at); was = last.Load() {
					}
					ended.Add(1)
				}
				if event == "status" {
					opened.Add(1)
					seen()
				}
			})
		})
	}
	if err := k.gateway.until(ctx, "all streams", func() bool { return opened.Load() == openStreams || len(failed) > 0 }); err != nil {
		return sample{}, err
	}
	if len(failed) > 0 {
		return sample{}, fmt.Errorf("a stream ended early: %w", <-failed)
	}
	if meanwhile != nil {
		if err := meanwhile(); err != nil {
			return sample{}, err
		}
	}
	before := k.read()
	if err := k.launchWorker(); err != nil {
		return sample{}, err
	}
	for range openStreams {
		if err := <-failed; err != nil {
			return sample{}, fmt.Errorf("a stream broke: %w", err)
		}
	}
	if n := ended.Load(); n != openStreams {
		return sample{}, fmt.Errorf("%d streams of %d had their outcome", n, openStreams)
	}
	s := k.read().minus(before, openStreams)
	s.rate = openStreams / time.Duration(last.Load()-first.Load()).Seconds()
	return s, nil
}

// each runs n goroutines and returns the first of their errors.
func each(n int, do func(i int) error) error {
	failed := make(chan error, n)
	for i := range n {
		go func() { failed <- do(i) }()
	}
	var first error
	for range n {
		if err := <-failed; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// rss is its resident memory in bytes.
func (p *process) rss() int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10
}
