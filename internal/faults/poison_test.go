package faults_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

const (
	aside = "each entry that nobody understands is set aside with its cause and counted, none is left on a stream; a panic fails its own request; " + recovers

	keptAside = 100 // of what was set aside
)

// poisoned writes what nobody understands on the stream of a service that is under
// load and among the replies, and has a worker panic.
//
// Planted: entries that nobody understands stay on their stream.
func poisoned(r *round) {
	h := open(r, redistest.Start(r))
	h.work(h.redis.URL, func(w *worker.Worker) { w.Handle("brittle", brittle) })
	h.announced("brittle")
	request, token := h.byHand("manual")
	l := h.load()
	begun, before := time.Now(), h.lines()
	written, all := map[string]int{}, 0 // by cause
	var panics sync.WaitGroup
	panics.Go(func() { h.panics(of(1000, 20), of(100, 10)) })
	for range of(20, 3) {
		for _, p := range poisons(request.CorrelationID, token) {
			if err := h.redis.Client.Do(h.Context(), append([]any{"XADD", p.stream, "*"}, p.fields...)...).Err(); err != nil {
				h.Fatal(err)
			}
			for _, cause := range p.causes {
				written[cause]++
				all++
			}
			<-time.After(r.pause(50 * time.Millisecond)) // among others
		}
	}
	panics.Wait()
	r.within("flowed again after", h.flows(), heal)
	h.quiet(begun, before)
	l.audit()
	reply := []any{"XADD", "cc:{0}:replies", "*", "token", token, "type", "final", "body", "whole"}
	if err := h.redis.Client.Do(h.Context(), reply...).Err(); err != nil {
		h.Fatal(err)
	}
	if s := h.ends(request, "succeeded"); s.Attempt != 1 || s.Events != 1 { // the outcome alone
		h.Errorf("it was harmed: %+v", s)
	}
	for _, service := range []string{"echo", "brittle", "manual"} {
		h.clean(service)
	}
	r.finds("set aside, by cause: %v", written)
	h.counts(all, `coatcheck_replies_total{kind="garbage"}`, `coatcheck_replies_total{kind="foreign"}`, `coatcheck_replies_total{kind="oversize"}`)
	kept, err := h.redis.Client.LRange(h.Context(), "cc:{0}:aside", 0, -1).Result()
	if err != nil || len(kept) != min(all, keptAside) {
		h.Errorf("%d are kept, %v", len(kept), err)
	}
	for cause := range written {
		if !strings.Contains(strings.Join(kept, "\n"), " "+cause+" ") {
			h.Errorf("none is kept with the cause %q", cause)
		}
	}
}

// poison is an entry that nobody understands.
type poison struct {
	stream string
	fields []any
	causes []string // with which it is set aside, and what a worker makes of it
}

// poisons are of many kinds; some misuse the names of a request that a worker has.
func poisons(id, token string) []poison {
	const queue, replies = "cc:{0}:queue:echo", "cc:{0}:replies"
	forged := "\noutcome " + id + " echo succeeded - 1 1 1\n"
	foreign := token[:strings.LastIndex(token, ".")] + ".00ff"
	bytes := strings.Repeat("\xff\x00\r\n", 1<<12)
	return []poison{
		{queue, []any{"none", "of ours"}, []string{"entry"}},
		{queue, []any{"id", id, "service", "echo", "body", "without a token"}, []string{"entry"}},
		{queue, []any{"id", forged, "token", forged, "attempt", "nan", "lease", "-1", "deadline", "never"}, []string{"entry"}},
		{queue, []any{bytes, bytes}, []string{"entry"}},
		{queue, []any{
			"id", id, "token", "nonsense", "reply_to", replies, "service", "echo", "attempt", "1e9", "lease", "",
			"deadline", fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()), "headers", "{", "body", "poison that runs",
		}, []string{"entry", "token"}},
		{replies, []any{"no", "fields"}, []string{"token"}},
		{replies, []any{"token", "nonsense", "type", "final", "body", bytes}, []string{"token"}},
		{replies, []any{"token", bytes, "type", bytes}, []string{"token"}},
		{replies, []any{"token", foreign, "type", "final", "body", "not yours"}, []string{"nonce"}},
		{replies, []any{"token", token, "type", "nonsense"}, []string{"type"}},
		{replies, []any{"token", token, "type", "progress", "body", strings.Repeat("x", 300<<10)}, []string{"event"}},
	}
}

// byHand submits a request and claims it as any Redis client can.
func (h *house) byHand(service string) (s api.Status, token string) {
	h.Helper()
	stream := "cc:{0}:queue:" + service
	for _, command := range [][]any{
		{"HSETNX", "cc:services", service, `{"lease":"10m"}`}, {"XGROUP", "CREATE", stream, "workers", "0", "MKSTREAM"},
	} {
		if err := h.redis.Client.Do(h.Context(), command...).Err(); err != nil {
			h.Fatal(err)
		}
	}
	h.announced(service)
	s = h.submit(h.gates[0], service, "claimed by hand")
	read := []any{"XREADGROUP", "GROUP", "workers", "hand", "COUNT", "1", "STREAMS", stream, ">"}
	if err := h.redis.Client.Do(h.Context(), read...).Err(); err != nil {
		h.Fatal(err)
	}
	entries, err := h.redis.Client.XRange(h.Context(), stream, "-", "+").Result()
	if err != nil || len(entries) != 1 {
		h.Fatalf("claimed %v, %v", entries, err)
	}
	return s, fmt.Sprint(entries[0].Values["token"])
}

// panics submits requests of which one in so many has its worker panic.
func (h *house) panics(all, one int) {
	for n := range all {
		body := fmt.Sprintf("brittle %d", n)
		if n%one == 0 {
			body = fmt.Sprintf("panic %d", n)
		}
		a, err := call(h.Context(), "POST", h.gates[n%2].url+"/v1/services/brittle/requests", body, "Prefer", "wait=30")
		panicked := a.status().Error.Code == "panic"
		if err != nil || panicked != (n%one == 0) || !panicked && a.body != body {
			h.Errorf("%q: %d %s, %v", body, a.code, a.body, err)
		}
	}
	h.finds("%d requests of which one in %d has its worker panic", all, one)
}

// brittle panics where it is told to.
func brittle(_ context.Context, r *worker.Request) (worker.Reply, error) {
	if strings.HasPrefix(string(r.Body), "panic") {
		panic("as it was told")
	}
	return worker.Reply{ContentType: r.ContentType, Body: r.Body}, nil
}
