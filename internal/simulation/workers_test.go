package simulation_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	replyTo      string
	claimed      time.Time
	alive        time.Time // when Redis last took a sign of life that counts
	said, heard  int       // latest number that a reply has, and of those that Redis took
	done         bool      // its worker sent what decides it
	pulled       bool      // a gateway handed it over, and takes the replies
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
	sure  bool // it came before every clock, so it holds
	taken time.Time
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
		w.send(r)
	case n < 65 && len(k.held) > 0:
		w.reply(k, k.held[len(k.held)-1-min(w.draw.IntN(len(k.held)), w.draw.IntN(len(k.held)))])
	case n < 97:
		w.claim(k)
	default:
		w.say("%s dies", k.name)
		k.held = nil
	}
}

// claim gives a worker what a queue has next.
func (w *world) claim(k *worker) bool {
	flat := w.next(k.name)
	if flat == nil {
		w.say("%s finds nothing to do", k.name)
		return false
	}
	if rec, attempt, f := w.handed(k.name, flat); rec != nil {
		d := &delivery{record: rec, worker: k.name, entry: flat[1], token: f["token"], replyTo: f["reply_to"], attempt: attempt, claimed: time.Now(), alive: time.Now()}
		rec.deliveries[attempt] = d
		k.held = append(k.held, d)
		w.happened()
	}
	return true
}

// reply has a worker say something of what it was given, mostly no more after what
// decides it.
func (w *world) reply(k *worker, d *delivery) {
	kinds := []string{"progress", "progress", "partial", "heartbeat", "heartbeat", "final", "final", "final", "failed", "retry"}
	w.number++
	r := &reply{delivery: d, kind: kinds[w.draw.IntN(len(kinds))], body: fmt.Sprintf("reply %d", w.number)}
	if w.draw.IntN(3) == 0 { // it has a key of its own
		r.body += strings.Repeat(".", 60)
	}
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
		w.send(r)
		return
	}
	w.say("%s sends %s to %s, attempt %d", k.name, r.kind, d.record.called(), d.attempt)
	w.flying = append(w.flying, r)
}

func (r *reply) decides() bool { return r.kind == "final" || r.kind == "failed" || r.kind == "retry" }

// take has Redis take a reply.
func (w *world) take(r *reply) {
	words := []string{"XADD", r.replyTo, "*", "token", r.token, "type", r.kind, "body", r.body}
	if r.number > 0 {
		words = append(words, "seq", strconv.Itoa(r.number))
	}
	if r.kind == "failed" {
		words = append(words, "error_code", "trouble")
	}
	w.redis.run(words)
	w.did("Redis takes %s (%s) of %s to %s, attempt %d", r.kind, r.body, r.worker, r.record.called(), r.attempt)
	w.taken(r)
	w.happened()
}

// taken notes what must come of a reply that Redis has taken.
func (w *world) taken(r *reply) {
	rec, now := w.named[r.record.name], time.Now() // another than before, where that came again after it was deleted
	first := rec.decided[r.attempt]
	dropped := r.number > 0 && r.number <= r.heard
	r.heard = max(r.heard, r.number)
	early := func(end time.Time) bool { return now.Before(end.Add(-2 * time.Millisecond)) }
	started := r.attempt > 1 || rec.start == 0 || r.claimed.Before(rec.created.Add(rec.start-2*time.Millisecond))
	sure := !dropped && rec == r.record && !rec.ended() && rec.attempt == r.attempt && started &&
		early(rec.deadline) && (rec.run == 0 || early(r.claimed.Add(rec.run))) && early(r.alive.Add(rec.rest))
	past := func(end time.Time) bool { return now.After(end.Add(2 * time.Millisecond)) }
	unstarted := r.attempt == 1 && rec.start > 0 && r.claimed.After(rec.created.Add(rec.start+2*time.Millisecond))
	late := unstarted || past(rec.deadline) || rec.run > 0 && past(r.claimed.Add(rec.run))
	if _, taken := w.late[r.body]; !taken { // a repeat may be late, and the first of it counts
		w.late[r.body] = late
	}
	switch {
	case r.decides():
		rec.arrived = append(rec.arrived, r)
		if first == nil && !dropped && !late {
			rec.decided[r.attempt] = &deciding{r, sure, now}
		}
	case sure && first == nil:
		r.alive = now
	}
}

func pairs(flat []string) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(flat); i += 2 {
		m[flat[i]] = flat[i+1]
	}
	return m
}
