package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Every worker process is a consumer of its own, so that a stream would know
// more of them with every restart. Those that hold something stay, however long
// they are silent. Only on the real Redis: the embedded one does not note when a
// consumer asked, and ends with its process.
func TestConsumersAreForgotten(t *testing.T) {
	r := redistest.Start(t)
	b := open(t, r)
	for n := range 5 {
		submit(t, b, "x")
		got, err := b.Claim(t.Context(), fmt.Sprintf("old-%d", n), []string{"echo"}, 1, time.Second)
		if err != nil || len(got) != 1 {
			t.Fatalf("claim: %v, %v", got, err)
		}
		if n > 0 {
			send(t, b, got[0], broker.WorkerReply{Type: "final"})
		}
	}
	settle(t, b)
	if n, err := b.Retire(t.Context(), 0, time.Hour); err != nil || n != 0 {
		t.Errorf("forgot %d that were there just now, %v", n, err)
	}
	until(t, b, time.Now().Add(20*time.Millisecond))
	if n, err := b.Retire(t.Context(), 0, 10*time.Millisecond); err != nil || n != 4 {
		t.Errorf("forgot %d, want 4; %v", n, err)
	}
	left := r.Client.XInfoConsumers(t.Context(), "cc:{0}:queue:echo", "workers").Val()
	if len(left) != 1 || left[0].Name != "old-0" {
		t.Errorf("left %v, want the one that holds a request", left)
	}
}

// A foreign worker may block for hours on one read: it is forgotten, and gets
// its request all the same.
func TestForgottenWhileItBlocks(t *testing.T) {
	r := redistest.Start(t)
	b := open(t, r)
	read := func() error {
		found, err := r.Client.XReadGroup(t.Context(), &redis.XReadGroupArgs{
			Group: "workers", Consumer: "patient", Streams: []string{"cc:{0}:queue:echo", ">"}, Count: 1, Block: 20 * time.Second,
		}).Result()
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("got %v", found)
		}
		return err
	}
	first := submit(t, b, "first")
	if err := read(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Cancel(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { got <- read() }()
	for !strings.Contains(r.Client.Info(t.Context(), "clients").Val(), "blocked_clients:1") {
	}
	if n, err := b.Retire(t.Context(), 0, 0); err != nil || n != 1 {
		t.Fatalf("forgot %d, %v", n, err)
	}
	request := submit(t, b, "second")
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if s := status(t, b, request.ID); s.Status != broker.Running || s.Worker != "patient" {
		t.Errorf("%s at %q", s.Status, s.Worker)
	}
}
