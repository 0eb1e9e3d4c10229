package worker_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// known is the worker w1 as the gateways see it, by now.
func (b *bench) known() (broker.Worker, bool) {
	b.t.Helper()
	time.Sleep(1100 * time.Millisecond) // the age of what is known
	workers, err := b.Workers(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, w := range workers {
		if w.Name == "w1" {
			return w, true
		}
	}
	return broker.Worker{}, false
}

// A worker is seen with what it is for as long as it runs, and no longer.
func TestEnlists(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		stop := b.work(func(w *worker.Worker) {
			w.Handle("echo", echo, worker.Describe("Gives back.", `{"type":"object"}`, ""))
			w.Handle("wait", func(ctx context.Context, _ *worker.Request) (worker.Reply, error) {
				<-ctx.Done()
				return worker.Reply{}, nil
			})
		}, worker.Version("v1.4.2"), worker.Concurrency(3), worker.Grace(30*time.Second))
		for range 3 {
			time.Sleep(13 * time.Second)
			w, ok := b.known()
			if !ok || w.Version != "v1.4.2" || w.Slots != 3 || strings.Join(w.Services, " ") != "echo wait" || w.Draining || !w.Obeys {
				t.Fatalf("%+v, %v", w, ok)
			}
		}
		if said, err := b.Describe(t.Context(), "echo"); err != nil || said.Description != "Gives back." || string(said.Request) != `{"type":"object"}` {
			t.Errorf("%+v, %v", said, err)
		}
		b.submit("wait", "")
		time.Sleep(time.Second)
		ended := make(chan struct{})
		go func() { stop(); close(ended) }()
		if w, ok := b.known(); !ok || !w.Draining || w.Busy != 1 {
			t.Errorf("while it ends: %+v, %v", w, ok)
		}
		<-ended
		if w, ok := b.known(); ok {
			t.Errorf("after its end: %+v", w)
		}
	})
}

// A worker that is told to drain finishes what it has and claims no more, but
// stays; a new process begins afresh.
func TestDrainByOrder(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		goOn, began := make(chan struct{}), make(chan struct{}, 2)
		setUp := func(w *worker.Worker) {
			w.Handle("echo", func(ctx context.Context, r *worker.Request) (worker.Reply, error) {
				began <- struct{}{}
				<-goOn
				return echo(ctx, r)
			})
		}
		stop := b.work(setUp)
		first := b.submit("echo", "first")
		<-began
		if w, err := b.Drain(t.Context(), "w1"); err != nil || !w.Obeys || w.Busy != 1 {
			t.Fatalf("%+v, %v", w, err)
		}
		time.Sleep(1500 * time.Millisecond) // a claim that was under way ends
		second := b.submit("echo", "second")
		close(goOn)
		if got := b.outcome(first); got.Status != broker.Succeeded || got.Attempt != 1 {
			t.Errorf("first: %s, attempt %d", got.Status, got.Attempt)
		}
		time.Sleep(20 * time.Second)
		if got, err := b.Status(t.Context(), second.ID); err != nil || got.Status != broker.Queued {
			t.Errorf("second: %s, %v", got.Status, err)
		}
		if w, ok := b.known(); !ok || !w.Draining || w.Busy != 0 {
			t.Errorf("%+v, %v", w, ok)
		}
		stop()
		defer b.work(setUp)()
		if got := b.outcome(second); got.Status != broker.Succeeded {
			t.Errorf("second: %s", got.Status)
		}
		if w, ok := b.known(); !ok || w.Draining {
			t.Errorf("the new one: %+v, %v", w, ok)
		}
	})
}

// The order reaches a worker that did not hear it when it was given.
func TestDrainFoundByRenewal(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		defer b.work(func(w *worker.Worker) { w.Handle("echo", echo) })()
		b.mini.HSet("cc:draining", "w1", "1")
		time.Sleep(broker.AnnounceEvery + 1500*time.Millisecond)
		r := b.submit("echo", "x")
		time.Sleep(5 * time.Second)
		if got, err := b.Status(t.Context(), r.ID); err != nil || got.Status != broker.Queued {
			t.Errorf("%s, %v", got.Status, err)
		}
	})
}

func TestDescriptionIsChecked(t *testing.T) {
	for name, option := range map[string]worker.ServiceOption{
		"no JSON":          worker.Describe("", "{", ""),
		"no schema":        worker.Describe("", "", `[1]`),
		"long schema":      worker.Describe("", `{"a":"`+strings.Repeat("x", 64<<10)+`"}`, ""),
		"long description": worker.Describe(strings.Repeat("x", 5<<10), "", ""),
	} {
		w := worker.New("redis://127.0.0.1:1", worker.Logger(quiet))
		w.Handle("echo", echo, option)
		if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `service "echo"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := worker.New("redis://127.0.0.1:1", worker.Logger(quiet), worker.Version(strings.Repeat("x", 65)))
	w.Handle("echo", echo)
	if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("%v", err)
	}
}

func echo(_ context.Context, r *worker.Request) (worker.Reply, error) {
	return worker.Reply{ContentType: r.ContentType, Body: r.Body}, nil
}
