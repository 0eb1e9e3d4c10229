package simulation_test

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// worker is a program that answers requests with two commands of Redis.
type worker struct {
	name string
	held []*delivery
}

// delivery is a work entry that a worker was given.
type delivery struct {
	record       *record
	worker       string
	entry, token string
	attempt      int
	claimed      time.Time
	alive        time.Time // when Redis last took a sign of life that counts
	said, heard  int       // latest number that a reply has, and of those that Redis took
	done         bool      // its worker sent what decides it
}

// reply is what a worker says of a delivery.
type reply struct {
	*delivery
	kind, body string
	number     int // 0 for none
}

// deciding is the first reply to an attempt that decides it.
type deciding struct {
	*reply
	sure bool // it came before every clock, so it holds
}

// work has a worker do something.
func (w *world) work() {
	k := w.workers[w.draw.IntN(len(w.workers))]
	n := w.draw.IntN(100)
	switch {
	case n < 30 && len(w.flying) > 0:
		i := w.draw.IntN(len(w.flying))
		r := w.flying[i]
		if w.draw.IntN(5) > 0 { // else it is sent again
			w.flying = slices.Delete(w.flying, i, i+1)
		}
		w.take(r)
	case n < 65 && len(k.held) > 0:
		w.reply(k, k.held[len(k.held)-1-min(w.draw.IntN(len(k.held)), w.draw.IntN(len(k.held)))])
	case n < 97:
		w.claim(k)
	default:
		w.say("%s dies", k.name)
		k.held = nil
	}
}

// claim gives a worker the next entry.
func (w *world) claim(k *worker) {
	answer := w.redis.claims(k.name)
	if string(answer) == nothing {
		w.say("%s finds nothing to do", k.name)
		return
	}
	flat := list(answer)
	f := pairs(flat[2:])
	rec := w.named[f["id"]]
	attempt, _ := strconv.Atoi(f["attempt"])
	w.did("%s claims %s, attempt %d", k.name, f["id"], attempt)
	switch {
	case rec == nil || rec.forgotten:
		w.fail("%s was given %s, of which there is no record", k.name, f["id"])
		return
	case rec.ended() || rec.attempt != attempt || rec.entry != flat[1]:
		w.fail("%s was given attempt %d of %s, which is %s in attempt %d", k.name, attempt, rec.request.name, rec.status, rec.attempt)
		return
	case rec.deliveries[attempt] != nil:
		w.fail("%s was given attempt %d of %s, as was %s", k.name, attempt, rec.request.name, rec.deliveries[attempt].worker)
		return
	case f["body"] != "body of "+rec.request.name:
		w.fail("%s was given %q for %s", k.name, f["body"], rec.request.name)
	}
	d := &delivery{record: rec, worker: k.name, entry: flat[1], token: f["token"], attempt: attempt, claimed: time.Now(), alive: time.Now()}
	rec.deliveries[attempt] = d
	k.held = append(k.held, d)
	w.happened()
}

// reply has a worker say something of what it was given, mostly no more after what
// decides it.
func (w *world) reply(k *worker, d *delivery) {
	kinds := []string{"progress", "progress", "partial", "heartbeat", "heartbeat", "final", "final", "final", "failed", "retry"}
	w.number++
	r := &reply{delivery: d, kind: kinds[w.draw.IntN(len(kinds))], body: fmt.Sprintf("reply %d", w.number)}
	if w.draw.IntN(3) == 0 && !d.done {
		d.said++
		r.number = d.said
	}
	if r.decides() {
		d.done = true
		if w.draw.IntN(4) > 0 {
			k.held = slices.DeleteFunc(k.held, func(h *delivery) bool { return h == d })
		}
	}
	if w.draw.IntN(10) < 6 {
		w.take(r)
		return
	}
	w.say("%s sends %s to %s, attempt %d", k.name, r.kind, d.record.request.name, d.attempt)
	w.flying = append(w.flying, r)
}

func (r *reply) decides() bool { return r.kind == "final" || r.kind == "failed" || r.kind == "retry" }

// take has Redis take a reply, and notes what must come of it.
func (w *world) take(r *reply) {
	words := []string{"XADD", repliesKey, "*", "token", r.token, "type", r.kind, "body", r.body}
	if r.number > 0 {
		words = append(words, "seq", strconv.Itoa(r.number))
	}
	if r.kind == "failed" {
		words = append(words, "error_code", r.body)
	}
	w.redis.run(words)
	w.did("Redis takes %s (%s) of %s to %s, attempt %d", r.kind, r.body, r.worker, r.record.request.name, r.attempt)
	rec, now := r.record, time.Now()
	first := rec.decided[r.attempt]
	dropped := r.number > 0 && r.number <= r.heard
	r.heard = max(r.heard, r.number)
	early := func(end time.Time) bool { return now.Before(end.Add(-2 * time.Millisecond)) }
	started := r.attempt > 1 || r.claimed.Before(rec.created.Add(config.StartTimeout-2*time.Millisecond))
	sure := !dropped && !rec.ended() && rec.attempt == r.attempt && started &&
		early(rec.deadline) && early(r.claimed.Add(config.RunTimeout)) && early(r.alive.Add(config.Lease))
	switch {
	case r.decides():
		rec.arrived = append(rec.arrived, r)
		if first == nil && !dropped {
			rec.decided[r.attempt] = &deciding{r, sure}
		}
	case sure && first == nil:
		r.alive = now
	}
	w.happened()
}

func pairs(flat []string) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(flat); i += 2 {
		m[flat[i]] = flat[i+1]
	}
	return m
}
