package simulation_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// hold is work that a gateway has for a worker that asked it over HTTP, and that no
// worker has yet.
type hold struct {
	broker.Delivery
	record *record
	at     time.Time
	busy   bool // the gateway hands it over, or puts it back
}

// pull has a gateway do something for a worker that asks it for work: take some, hand it
// over, or put it back where the worker has left.
func (w *world) pull() {
	g := w.alive()
	if g == nil {
		return
	}
	ready := slices.DeleteFunc(slices.Clone(g.holds), func(h *hold) bool { return h.busy })
	if len(ready) == 0 || w.draw.IntN(3) == 0 {
		w.reserve(g)
		return
	}
	if w.pausing && w.draw.IntN(3) > 0 { // so that a pause may come between
		return
	}
	h := ready[w.draw.IntN(len(ready))]
	switch n := w.draw.IntN(20); {
	case n == 0:
		w.say("%s forgets that it holds %s", g.name, h.record.called())
		g.dropped(h)
	case n < 6:
		w.unclaim(g, h)
	default:
		w.entrust(g, h)
	}
}

// reserve has a gateway hold what a queue has next. Which one it asks hangs on chance.
func (w *world) reserve(g *gate) {
	flat := w.next("pull:" + g.name)
	if flat == nil {
		w.say("%s finds nothing to do", g.name)
		return
	}
	rec, attempt, f := w.handed(g.name, flat)
	if rec == nil {
		return
	}
	h := &hold{record: rec, at: time.Now(), Delivery: broker.Delivery{
		ID: f["id"], Entry: flat[1], Token: f["token"], ReplyTo: f["reply_to"], Service: f["service"], Attempt: attempt,
	}}
	rec.holds[attempt] = h
	g.holds = append(g.holds, h)
	w.happened()
}

func (g *gate) dropped(h *hold) {
	g.holds = slices.DeleteFunc(g.holds, func(other *hold) bool { return other == h })
}

// entrust has a gateway hand work over to a worker.
func (w *world) entrust(g *gate, h *hold) {
	h.busy = true
	k := w.workers[w.draw.IntN(len(w.workers))]
	w.call(g, "hand over "+h.record.called(), func() func() {
		handed, err := g.broker.Entrust(context.Background(), []broker.Delivery{h.Delivery})
		return func() {
			if err != nil {
				h.busy = false // and tries again, or puts it back
				w.excuse(err)
				return
			}
			if g.dropped(h); len(handed) == 0 {
				w.checkKept(g, h)
				return
			}
			d := h.record.deliveries[h.Attempt]
			if d == nil || d.entry != h.Entry {
				w.fail("%s handed over attempt %d of %s, which nobody has", g.name, h.Attempt, h.record.called())
				return
			}
			k.held = append(k.held, d)
		}
	})
}

// checkKept holds work that was not handed over to why not.
func (w *world) checkKept(g *gate, h *hold) {
	rec, passed := h.record, func(d time.Duration) bool { return d > 0 && !time.Now().Before(h.record.created.Add(d)) }
	switch {
	case rec.ended(), rec.forgotten, rec.entry != h.Entry, passed(rec.start), passed(rec.run), !time.Now().Before(rec.deadline):
	case !w.pausing:
		w.fail("%s did not hand over %s, which is %s in attempt %d", g.name, rec.called(), rec.status, rec.attempt)
	}
}

// entrusted notes that work is a worker's from now on.
func (w *world) entrusted(rec *record, holder string) {
	h := rec.holds[rec.attempt]
	if h == nil || h.Entry != rec.entry {
		w.fail("%s has attempt %d of %s, which no gateway held", holder, rec.attempt, rec.called())
		return
	}
	w.checkPaused(rec, holder, rec.entry)
	rec.deliveries[rec.attempt] = &delivery{
		record: rec, worker: holder, entry: h.Entry, token: h.Token, replyTo: h.ReplyTo, attempt: h.Attempt, claimed: time.Now(), alive: time.Now(), pulled: true,
	}
}

func (w *world) unclaim(g *gate, h *hold) {
	h.busy = true
	w.call(g, "put back "+h.record.called(), func() func() {
		err := g.broker.Unclaim(context.Background(), h.Delivery)
		return func() {
			if g.dropped(h); err != nil {
				w.excuse(err)
			}
		}
	})
}

// send has a reply go to Redis: by the worker itself, or by a gateway that it tells.
func (w *world) send(r *reply) {
	if !r.pulled {
		w.take(r)
		return
	}
	g := w.alive()
	if g == nil {
		w.flying = append(w.flying, r)
		return
	}
	says := broker.WorkerReply{Type: r.kind, Body: []byte(r.body), Seq: r.number}
	if r.kind == "failed" {
		says.Error = &broker.Error{Code: "trouble"}
	}
	w.told[r.body] = r
	w.call(g, "take "+r.kind+" of "+r.record.called(), func() func() {
		_, now, err := g.broker.Answer(context.Background(), r.token, says)
		return func() { w.answeredWorker(r, now, err) }
	})
}

// answeredWorker looks at what a worker hears of its reply.
func (w *world) answeredWorker(r *reply, now broker.Status, err error) {
	rec := w.named[r.record.name]
	passed := func(d time.Duration, from time.Time) bool { return d > 0 && !time.Now().Before(from.Add(d)) }
	over := rec != r.record || rec.forgotten || rec.ended() || rec.attempt != r.attempt || !time.Now().Before(rec.deadline) ||
		passed(rec.start, rec.created) || passed(rec.run, r.claimed)
	switch {
	case errors.Is(err, broker.ErrClaimLost), errors.Is(err, broker.ErrGone), errors.Is(err, broker.ErrUnknownClaim) && rec != r.record:
		if !over {
			w.fail("%s is %s in attempt %d, and its worker hears: %v (%s)", rec.called(), rec.status, rec.attempt, err, now)
		}
	case err != nil:
		w.excuse(err)
	}
}

// takenByGateways notes the replies that gateways put on the stream of a partition.
func (w *world) takenByGateways(at string) {
	if len(w.told) == 0 {
		return
	}
	entries, _ := w.redis.Stream(at + "replies")
	for _, e := range entries {
		if r := w.told[pairs(e.Values)["body"]]; r != nil && !w.noted[e.ID+" "+at] {
			w.noted[e.ID+" "+at] = true
			w.say("a gateway puts %s (%s) of %s, attempt %d, on the stream", r.kind, r.body, r.record.called(), r.attempt)
			w.taken(r)
		}
	}
}

// next gives somebody the next entry of the first queue, from one drawn on, that has one.
// The answer is flat; nil where there is none.
func (w *world) next(consumer string) []string {
	n := len(w.partitions) * len(serviceNames)
	from := w.draw.IntN(n)
	for i := range n {
		queue := w.partitions[(from+i)%n/len(serviceNames)] + "queue:" + serviceNames[(from+i)%n%len(serviceNames)]
		if answer := w.redis.claims(consumer, queue); string(answer) != nothing {
			return list(answer)
		}
	}
	return nil
}

// handed holds what a worker, or a gateway for one, was handed to what it may be. Its
// record is nil where it may not be.
func (w *world) handed(who string, flat []string) (rec *record, attempt int, f map[string]string) {
	f = pairs(flat[2:])
	name, _, _ := strings.Cut(f["token"], ".")
	id, _, _ := strings.Cut(name, "/")
	rec = w.named[name]
	attempt, _ = strconv.Atoi(f["attempt"])
	w.did("%s claims %s, attempt %d", who, name, attempt)
	switch {
	case rec == nil || rec.forgotten:
		w.fail("%s was given %s, of which there is no record", who, name)
		return nil, 0, nil
	case rec.ended() || rec.attempt != attempt || rec.entry != flat[1]:
		w.fail("%s was given attempt %d of %s, which is %s in attempt %d", who, attempt, rec.called(), rec.status, rec.attempt)
		return nil, 0, nil
	case rec.deliveries[attempt] != nil:
		w.fail("%s was given attempt %d of %s, as was %s", who, attempt, rec.called(), rec.deliveries[attempt].worker)
		return nil, 0, nil
	case f["body"] != rec.request.body || f["id"] != id || f["service"] != rec.service:
		w.fail("%s was given %q of %s at %s for %s", who, f["body"], f["id"], f["service"], rec.called())
	case !instant(f["deadline"]).Equal(rec.deadline) || f["lease"] != strconv.FormatInt(rec.rest.Milliseconds(), 10):
		w.fail("%s was given %s until %s for %s ms, and it may take until %s for %v", who, rec.called(), f["deadline"], f["lease"], rec.deadline, rec.rest)
	}
	w.checkPaused(rec, who, flat[1])
	var before []string
	for _, earlier := range w.records[:slices.Index(w.records, rec)] {
		if rec.gate != "" && earlier.gate == rec.gate && earlier.service == rec.service && !earlier.ended() && !earlier.forgotten {
			before = append(before, earlier.called())
		}
	}
	if rec.gate != "" && len(before) >= rec.abreast {
		w.fail("%s was given %s, and %s are before it in the order of their key, of which run %d at once", who, rec.called(), before, rec.abreast)
	}
	return rec, attempt, f
}
