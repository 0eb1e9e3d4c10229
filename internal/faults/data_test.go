package faults_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	forgets = "what Redis lost is 410 at every gateway, and who waits for it is told ≤ 7 s; what is accepted afterwards has its outcome; work flows ≤ 5 s; ≤ 3 log lines/s a gateway"
	keeps   = "each accepted request one outcome with its bytes, none stuck; work flows ≤ 5 s; ≤ 3 log lines/s a gateway"

	told = 7 * time.Second // until a waiter hears that there is nothing to wait for
)

// flushed takes all data away while everything runs.
//
// Planted: a new key of IDs where Redis lost the deployment's (404 for what was
// accepted before).
func flushed(r *round) {
	forgetful(r, redistest.Start(r), func(h *house) {
		if err := h.redis.Client.FlushAll(h.Context()).Err(); err != nil {
			h.Fatal(err)
		}
	})
}

// restarted has Redis come back without its data.
//
// Planted: who waits is not told that it is gone.
func restarted(r *round) {
	forgetful(r, redistest.Start(r), func(h *house) {
		h.redis.Kill()
		h.redis.Restart(h)
	})
}

// forgetful has Redis lose its data under load.
func forgetful(r *round, redis *redistest.Redis, lose func(*house)) {
	h := open(r, redis)
	h.work(h.redis.URL, func(w *worker.Worker) { w.Handle("stuck", stuck) })
	h.announced("stuck")
	l := h.load()
	var waiters sync.WaitGroup
	var waited [4]answer
	var ended [4]time.Time
	held := h.submit(h.gates[1], "stuck", "held")
	for i, path := range []string{held.Links.Self + "?wait=60s", held.Links.Events} {
		for j, g := range h.gates {
			waiters.Go(func() {
				a, err := call(h.Context(), "GET", g.url+path, "")
				if err != nil {
					h.Errorf("%s: %v", path, err)
				}
				waited[2*i+j], ended[2*i+j] = a, time.Now()
			})
		}
	}
	<-time.After(500 * time.Millisecond) // under load, and with the waiters
	begun, before := time.Now(), h.lines()
	l.losing.Store(true)
	lose(h)
	lost := time.Now()
	r.within("flowed again after", h.flows(), heal)
	waiters.Wait()
	last := lost
	for i, a := range waited {
		if i < 2 && a.code != http.StatusGone || outcomes(a.body) > 0 {
			h.Errorf("a waiter was told %d %s", a.code, a.body)
		}
		if ended[i].After(last) {
			last = ended[i]
		}
	}
	r.within("waiters told after", last.Sub(lost), told)
	h.quiet(begun, before)
	l.stop()
	l.all.Wait()
	gone := 0
	for id, payload := range l.accepted { // some came after the loss
		first := h.get(h.gates[0], "/v1/requests/"+id).code
		if other := h.get(h.gates[1], "/v1/requests/"+id).code; first != other || first != http.StatusOK && first != http.StatusGone {
			h.Errorf("%s is %d, and %d", id, first, other)
		}
		if first == http.StatusGone {
			gone++
			continue
		}
		h.verify(h.Context(), id, payload)
	}
	if gone == 0 || h.get(h.gates[0], held.Links.Self).code != http.StatusGone {
		h.Error("nothing was lost")
	}
	r.finds("%d of %d accepted are gone", gone, len(l.accepted))
	again := h.load()
	<-time.After(500 * time.Millisecond) // under load
	again.audit()
}

// ungrouped destroys the groups of the streams again and again: entries that were
// handed out are not pending any more, and come once more.
//
// Planted: nobody makes the group again where Redis says NOGROUP (no work flowed).
func ungrouped(r *round) {
	h := open(r, redistest.Start(r))
	l := h.load()
	begun, before, destroyed := time.Now(), h.lines(), int64(0)
	for range of(40, 8) {
		<-time.After(100*time.Millisecond + r.pause(200*time.Millisecond)) // under load
		for stream, group := range map[string]string{"cc:{0}:queue:echo": "workers", "cc:{0}:callbacks": "deliverers"} {
			n, err := h.redis.Client.XGroupDestroy(h.Context(), stream, group).Result()
			if err != nil && !strings.Contains(err.Error(), "requires the key to exist") {
				h.Errorf("destroy the group of %s: %v", stream, err)
			}
			destroyed += n
		}
	}
	if destroyed == 0 {
		h.Error("there was no group to destroy")
	}
	r.finds("%d groups destroyed", destroyed)
	r.within("flowed again after", h.flows(), heal)
	h.quiet(begun, before)
	l.audit()
	h.clean("echo")
}

// stuck answers nobody.
func stuck(ctx context.Context, _ *worker.Request) (worker.Reply, error) {
	<-ctx.Done()
	return worker.Reply{}, context.Cause(ctx)
}

// quiet wants few lines of log since an instant.
func (h *house) quiet(begun time.Time, before int) {
	h.Helper()
	lines, most := h.lines()-before, 10+int(time.Since(begun).Seconds()*3*float64(len(h.gates)))
	h.finds("%d log lines", lines)
	if lines > most {
		h.Errorf("%d log lines, want %d at most: %v, %v", lines, most, h.gates[0].said, h.gates[1].said)
	}
}

// clean wants nothing left of the work of a service, once all of it has ended.
func (h *house) clean(service string) {
	h.Helper()
	stream := "cc:{0}:queue:" + service
	for deadline := time.Now().Add(settled); ; <-time.After(100 * time.Millisecond) {
		left, err := h.redis.Client.XLen(h.Context(), stream).Result()
		due, _ := h.redis.Client.ZCard(h.Context(), "cc:{0}:due").Result()
		together, _ := h.redis.Client.ZCard(h.Context(), "cc:{0}:clocks").Result()
		unsettled, _ := h.redis.Client.XLen(h.Context(), "cc:{0}:replies").Result()
		if err == nil && left+due+together+unsettled == 0 {
			return
		}
		if time.Now().After(deadline) {
			h.Errorf("left behind: %d entries, %d decisions, %d groups, %d replies, %v", left, due, together, unsettled, err)
			return
		}
	}
}
