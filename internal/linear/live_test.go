package linear_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// live has clients ask for as long as it lasts, while things break.
func (h *house) live(lasts time.Duration) {
	ctx, stop := context.WithTimeout(h.Context(), lasts)
	defer stop()
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() {
			for ctx.Err() == nil {
				h.act(n)
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			h.fault(ctx)
		}
	})
	all.Wait()
}

// act has a client do something with a request that is young enough to change.
func (h *house) act(client int) {
	g, t := h.gates[h.draw(len(h.gates))], h.ticket()
	id := t.known()
	n := h.draw(100)
	switch {
	case id == "" || n < 20:
		h.submit(client, g, t)
		if id := t.known(); id != "" && h.draw(4) > 0 { // as clients mostly do, so that the gateway expects it
			h.poll(client, g, t, id, fmt.Sprintf("?wait=%dms", 1+h.draw(300)))
		}
	case n < 65:
		h.poll(client, g, t, id, "")
	case n < 85:
		h.poll(client, g, t, id, fmt.Sprintf("?wait=%dms", 1+h.draw(300)))
	default:
		h.cancel(client, g, t, id)
	}
}

// ticket is one of the newest, or a new one.
func (h *house) ticket() *ticket {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.tickets) == 0 || h.random.IntN(12) == 0 {
		t := &ticket{key: fmt.Sprint("key-", len(h.tickets)), timeout: long}
		if h.random.IntN(4) == 0 {
			t.timeout = short
		}
		h.tickets = append(h.tickets, t)
		return t
	}
	return h.tickets[max(0, len(h.tickets)-1-h.random.IntN(4))]
}

func (t *ticket) known() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.id
}

func (h *house) submit(client int, g *gate, t *ticket) {
	begun := h.now()
	t.mu.Lock()
	if !t.asked { // the clock runs from the accept on, of which no more is known than that it came after this
		t.asked = true
		h.did(client, begun+int64(t.timeout-5*time.Millisecond), asked{key: t.key, do: "clock"}, answered{})
	}
	t.mu.Unlock()
	code, s := h.ask(g, "POST", "/v1/services/"+service+"/requests", t.key, "Idempotency-Key", t.key, "Coatcheck-Timeout", t.timeout.String())
	out := answered{}
	switch code {
	case 202:
		out = answered{"accepted", s}
		t.mu.Lock()
		t.id = s.id
		t.mu.Unlock()
	case 0, 504:
	case 503, 429:
		out.verdict = "refused"
	default:
		h.Errorf("submit: %d", code)
	}
	h.did(client, begun, asked{key: t.key, do: "submit"}, out)
	if out.verdict == "accepted" {
		h.did(client, begun, asked{key: t.key, do: "poll"}, answered{"shown", s})
	}
}

func (h *house) poll(client int, g *gate, t *ticket, id, wait string) {
	begun := h.now()
	code, s := h.ask(g, "GET", "/v1/requests/"+id+wait, "")
	switch code {
	case 200:
		h.did(client, begun, asked{key: t.key, do: "poll"}, answered{"shown", s})
	case 404, 410:
		h.did(client, begun, asked{key: t.key, do: "poll"}, answered{verdict: "gone"})
	case 0, 503, 504: // nothing was seen, and nothing changed
	default:
		h.Errorf("poll: %d", code)
	}
}

func (h *house) cancel(client int, g *gate, t *ticket, id string) {
	begun := h.now()
	code, _ := h.ask(g, "POST", "/v1/requests/"+id+"/cancel", "")
	out := answered{}
	switch code {
	case 200:
		out.verdict = "canceled"
	case 409:
		out.verdict = "ended"
	case 404, 410:
		out.verdict = "gone"
	case 503:
		return // nothing happened
	case 0, 504:
	default:
		h.Errorf("cancel: %d", code)
	}
	h.did(client, begun, asked{key: t.key, do: "cancel"}, out)
}

// work has workers answer until the test ends: mostly once, sometimes twice, sometimes
// never. Their own network is fine: what breaks is what the gateways see.
func (h *house) work() {
	b, err := broker.Open(h.Context(), broker.Options{URL: h.redis.URL, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		h.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	h.Cleanup(func() { stop(); all.Wait(); b.Close() })
	for n := range 2 {
		all.Go(func() {
			for ctx.Err() == nil {
				begun := h.now()
				found, err := b.Claim(ctx, fmt.Sprint("w", n), []string{service}, 1, 100*time.Millisecond)
				for _, d := range found {
					h.answer(ctx, b, clients+n, begun, d)
				}
				if err != nil && ctx.Err() == nil {
					h.Error(err)
				}
			}
		})
	}
}

// answer replies to a work entry that was asked for at an instant.
func (h *house) answer(ctx context.Context, b *broker.Broker, worker int, begun int64, d broker.Delivery) {
	key := string(d.Body)
	h.did(worker, begun, asked{key: key, do: "claim"}, answered{})
	replies := []int{0, 1, 1, 1, 1, 2}[h.draw(6)]
	for i := range replies {
		select { // what it takes to answer
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(h.draw(40)) * time.Millisecond):
		}
		body := fmt.Sprintf("reply %d of worker %d to %s", i, worker, key)
		h.did(worker, h.now(), asked{key: key, do: "reply", body: body}, answered{})
		if err := b.Send(ctx, d, broker.WorkerReply{Type: "final", ContentType: "text/plain", Body: []byte(body)}); err != nil && ctx.Err() == nil {
			h.Error(err)
		}
	}
}

// fault breaks something for a moment.
func (h *house) fault(ctx context.Context) {
	rest := func(most int) {
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(1+h.draw(most)) * time.Millisecond):
		}
	}
	rest(200)
	g := h.gates[h.draw(len(h.gates))]
	h.mu.Lock()
	h.breaks++
	h.mu.Unlock()
	switch n := h.draw(10); {
	case n < 3:
		g.proxy.Reset()
	case n < 6: // answers are lost in the middle
		g.proxy.Cut(func() int { return 20 + h.draw(2000) })
		rest(200)
		g.proxy.Heal()
	case n < 8: // longer than the lease of a steward, at most
		g.proxy.Hold()
		rest(2000)
		g.proxy.Heal()
	case n < 9:
		g.proxy.Forget()
	default:
		g.stop()
		h.start(g)
	}
}

// heal ends all faults, waits until everything has its outcome, and has every gateway
// asked for it. It returns all operations.
func (h *house) heal() []porcupine.Operation {
	for _, g := range h.gates {
		g.proxy.Heal()
	}
	ctx, stop := context.WithTimeout(h.Context(), heals)
	defer stop()
	for i, t := range h.tickets {
		id := t.known()
		if id == "" {
			continue
		}
		// A worker may never answer: then it ends by a cancel.
		for h.cancel(i%clients, h.gates[0], t, id); ctx.Err() == nil; {
			if code, s := h.ask(h.gates[0], "GET", "/v1/requests/"+id, ""); code == 200 && s.status != "queued" && s.status != "running" {
				break
			}
		}
		for _, g := range h.gates {
			h.poll(i%clients, g, t, id, "")
		}
	}
	if ctx.Err() != nil {
		h.Errorf("not everything has its outcome %v after all has healed", heals)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.history
}

// needed leaves out of the history of a request what would only make too many orders to
// try. Of that of which nobody heard, what began when it could have no effect any more;
// and all but the first of several that are the same, since that may come at any time.
func needed(part []porcupine.Operation) []porcupine.Operation {
	accepted, ended := int64(never), int64(never) // known by then
	first := map[asked]int64{}
	for _, o := range part {
		out := o.Output.(answered)
		if out.id != "" {
			accepted = min(accepted, o.Return)
		}
		if out.verdict == "canceled" || out.verdict == "ended" || out.verdict == "shown" && !out.open() {
			ended = min(ended, o.Return)
		}
		if begun, known := first[o.Input.(asked)]; o.Return == never && (!known || o.Call < begun) {
			first[o.Input.(asked)] = o.Call
		}
	}
	return slices.DeleteFunc(part, func(o porcupine.Operation) bool {
		in, known := o.Input.(asked), ended
		if in.do == "submit" {
			known = accepted
		}
		return o.Return == never && (o.Call > known || o.Call > first[in])
	})
}
