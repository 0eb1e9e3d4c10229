package simulation_test

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// record is what Redis holds of a request, and what was true of it before.
type record struct {
	request *request
	id      string

	created, deadline time.Time
	retention         time.Duration

	status, reason, code, reply, entry, worker string
	attempt, seq                               int
	started, finished, release                 time.Time
	parked                                     bool // its body is in the record

	events     []string
	forgotten  bool
	deliveries map[int]*delivery // by attempt
	decided    map[int]*deciding // by attempt
	arrived    []*reply          // that decide, in the order in which Redis took them
}

const week = 7 * 24 * time.Hour

func (rec *record) ended() bool { return terminal(rec.status) }

// old tells whether its retention is over, or as good as that.
func (rec *record) old() bool {
	return rec.ended() && !time.Now().Before(rec.finished.Add(rec.retention-2*time.Millisecond))
}

func terminal(status string) bool {
	return status == "succeeded" || status == "failed" || status == "timed_out" || status == "canceled"
}

// rank orders what a request can be: nobody sees a lower one after a higher.
func rank(attempt int, status string) int {
	if terminal(status) {
		return 1000
	}
	return 10*attempt + slices.Index([]string{"scheduled", "queued", "running"}, status)
}

// check holds what a command touched to what must be at any instant.
func (w *world) check(touched map[string]bool) {
	places := false
	for _, key := range slices.Sorted(maps.Keys(touched)) {
		if id, ok := strings.CutPrefix(key, recordsKey); ok {
			w.checkRecord(id)
			places = true
		}
		places = places || key == queueKey || key == waitingKey || key == dueKey
	}
	for key := range touched {
		if rec := w.named[strings.TrimPrefix(key, eventsKey)]; rec != nil && !rec.forgotten {
			w.checkEvents(rec)
		}
	}
	if places && w.broken == nil {
		w.checkPlaces()
	}
}

func (w *world) checkRecord(id string) {
	key, rec := recordsKey+id, w.named[id]
	get := func(field string) string { return w.redis.HGet(key, field) }
	if !w.redis.Exists(key) {
		if rec != nil {
			w.checkForgotten(rec)
		}
		return
	}
	if rec == nil {
		rec = w.found(id, get)
		if rec == nil {
			return
		}
	}
	was := *rec
	rec.status, rec.reason, rec.code, rec.reply = get("status"), get("reason"), get("code"), get("reply")
	rec.entry, rec.worker, rec.parked = get("entry"), get("worker"), get("body") != ""
	rec.attempt, _ = strconv.Atoi(get("attempt"))
	rec.seq, _ = strconv.Atoi(get("seq"))
	rec.started, rec.finished, rec.release = instant(get("started")), instant(get("finished")), instant(get("release"))
	name := rec.request.name
	if was.ended() {
		if rec.status != was.status || rec.reason != was.reason || rec.code != was.code || rec.reply != was.reply ||
			rec.finished != was.finished || rec.seq != was.seq || rec.attempt != was.attempt {
			w.fail("%s had the outcome %s (%s) %q of %s in attempt %d, and has %s (%s) %q of %s in attempt %d", name,
				was.status, was.reason, was.reply, was.finished, was.attempt, rec.status, rec.reason, rec.reply, rec.finished, rec.attempt)
		}
	}
	if rank(rec.attempt, rec.status) < rank(was.attempt, was.status) {
		w.fail("%s was %s in attempt %d, and is %s in attempt %d", name, was.status, was.attempt, rec.status, rec.attempt)
	}
	if rec.attempt < 1 || rec.attempt > config.MaxAttempts {
		w.fail("%s has attempt %d", name, rec.attempt)
	}
	ttl := w.redis.TTL(key)
	switch {
	case !rec.ended() && (ttl == 0 || time.Now().Add(ttl).Before(rec.deadline.Add(week-time.Second))):
		w.fail("%s is %s, and its record expires in %v", name, rec.status, ttl)
	case rec.ended() && (ttl == 0 || ttl > rec.retention):
		w.fail("%s is %s, and its record expires in %v", name, rec.status, ttl)
	case rec.status == "running" && rec.started.IsZero():
		w.fail("%s is running since never", name)
	}
	if rec.seq != was.seq {
		w.checkEvents(rec)
	}
	if rec.attempt > was.attempt && was.attempt > 0 {
		w.checkAgain(rec, was.attempt)
	}
	if rec.ended() && !was.ended() {
		w.checkOutcome(rec)
	}
}

// found is a record that was not there before.
func (w *world) found(id string, get func(string) string) *record {
	var r *request
	for _, known := range w.requests {
		if known.name == get("tags") {
			r = known
		}
	}
	if r == nil {
		w.fail("the record %s is of no request: %q", id, get("tags"))
		return nil
	}
	for _, other := range r.records {
		if !other.forgotten || r.key == "" {
			w.fail("%s was accepted as %s and as %s", r.name, other.id, id)
		}
	}
	rec := &record{request: r, id: id, deliveries: map[int]*delivery{}, decided: map[int]*deciding{}}
	plan := strings.Fields(get("plan"))
	ms := func(i int) time.Duration {
		n, _ := strconv.Atoi(plan[i])
		return time.Duration(n) * time.Millisecond
	}
	rec.created = instant(plan[0])
	rec.deadline, rec.retention = rec.created.Add(ms(1)), ms(6)
	r.records = append(r.records, rec)
	w.named[id] = rec
	return rec
}

// checkForgotten holds a record that is no more to why it may be.
func (w *world) checkForgotten(rec *record) {
	if !rec.forgotten && !rec.request.deleting && !rec.old() {
		w.fail("%s was %s, and its record is gone", rec.request.name, rec.status)
	}
	rec.forgotten = true
}

// checkEvents holds the history to what it was: it only grows, and not after the end.
func (w *world) checkEvents(rec *record) {
	events, err := w.redis.List(eventsKey + rec.id)
	if err != nil && w.redis.Exists(eventsKey+rec.id) || len(events) != rec.seq || len(events) < len(rec.events) || !slices.Equal(events[:len(rec.events)], rec.events) {
		w.fail("%s has %d events, it had %q, and has %q (%v)", rec.request.name, rec.seq, rec.events, events, err)
		return
	}
	rec.events = events
}

func bodyOf(event string) string {
	_, body, _ := strings.Cut(event, "\n")
	return body
}

// checkAgain holds another attempt to what ended the one before.
func (w *world) checkAgain(rec *record, attempt int) {
	d, first := rec.deliveries[attempt], rec.decided[attempt]
	switch {
	case rec.attempt != attempt+1:
		w.fail("%s went from attempt %d to %d", rec.request.name, attempt, rec.attempt)
	case d == nil:
		w.fail("%s has attempt %d, and nobody had attempt %d", rec.request.name, rec.attempt, attempt)
	case first != nil && first.sure && first.kind != "retry":
		w.fail("%s has attempt %d, although Redis took %s of attempt %d in time: the reply is lost", rec.request.name, rec.attempt, first.kind, attempt)
	case first == nil && time.Now().Before(d.alive.Add(config.Lease-2*time.Millisecond)):
		w.fail("%s was taken away from %s before its lease was over", rec.request.name, d.worker)
	}
}

// checkOutcome holds a new outcome to what led to it.
func (w *world) checkOutcome(rec *record) {
	first, name, now := rec.decided[rec.attempt], rec.request.name, time.Now()
	sure := first != nil && first.sure
	of := func(kind string) bool { // a reply of that kind led to it
		if sure {
			return first.kind == kind && (kind == "retry" || first.body == rec.reply)
		}
		return slices.ContainsFunc(rec.arrived, func(r *reply) bool {
			return r.attempt == rec.attempt && r.kind == kind && (kind == "retry" || r.body == rec.reply)
		})
	}
	silent := func() bool {
		d := rec.deliveries[rec.attempt]
		return d != nil && !sure && !now.Before(d.alive.Add(config.Lease-2*time.Millisecond))
	}
	ok := false
	switch rec.status + " " + rec.reason {
	case "canceled client":
		ok = rec.request.canceling || rec.request.deleting
	case "succeeded ":
		ok = of("final")
	case "failed worker":
		ok = of("failed")
	case "failed max_attempts":
		ok = rec.attempt == config.MaxAttempts && (of("retry") || silent())
	case "timed_out total":
		ok = !sure && !now.Before(rec.deadline)
	case "timed_out start":
		ok = !sure && !now.Before(rec.created.Add(config.StartTimeout))
	case "timed_out run":
		ok = !sure && !now.Before(rec.started.Add(config.RunTimeout))
	}
	if !ok {
		what := "nothing"
		if first != nil {
			what = first.kind + " " + first.body
		}
		w.fail("%s is %s (%s) with %q in attempt %d, which %s decided first (in time: %v)", name, rec.status, rec.reason, rec.reply, rec.attempt, what, sure)
	}
}

// checkPlaces holds all that refers to requests to what they are.
func (w *world) checkPlaces() {
	entries, _ := w.redis.Stream(queueKey)
	stream := make(map[string]bool, len(entries))
	for _, e := range entries {
		stream[e.ID] = true
	}
	pending := map[string]string{}
	flat := list(w.redis.run([]string{"XPENDING", queueKey, "workers", "-", "+", "100"}))
	for i := 0; i+3 < len(flat); i += 4 {
		pending[flat[i]] = flat[i+1]
	}
	due, _ := w.redis.SortedSet(dueKey)
	waiting, _ := w.redis.SortedSet(waitingKey)
	open := 0
	for _, r := range w.requests {
		for _, rec := range r.records {
			if !rec.forgotten {
				w.checkPlace(rec, stream[rec.entry], pending[rec.entry], due, waiting)
			}
			if !rec.forgotten && !rec.ended() {
				open++
				if stream[rec.entry] {
					delete(stream, rec.entry)
					delete(pending, rec.entry)
				}
			}
		}
	}
	if len(stream)+len(pending) > 0 {
		w.fail("entries of nobody: on the stream %v, pending %v", slices.Collect(maps.Keys(stream)), pending)
	}
	if len(due) != open {
		w.fail("%d requests are open, and %d are due some time", open, len(due))
	}
	if listed, _ := w.redis.SortedSet(prefix + "listing:open:"); len(listed) != open {
		w.fail("%d requests are open, and %d are listed as that", open, len(listed))
	}
	w.redis.news()
}

func (w *world) checkPlace(rec *record, onStream bool, holder string, due, waiting map[string]float64) {
	name := rec.request.name
	at, planned := due[rec.id]
	_, waits := waiting[rec.id]
	dead := rec.status == "failed" || rec.status == "timed_out"
	switch {
	case rec.ended():
		if onStream || planned || waits || rec.parked != dead {
			w.fail("%s is %s; on the stream: %v, due: %v, waiting: %v, body kept: %v", name, rec.status, onStream, planned, waits, rec.parked)
		}
		return
	case onStream == rec.parked:
		w.fail("%s is %s; its body is on the stream: %v, and in the record: %v", name, rec.status, onStream, rec.parked)
	case waits == onStream:
		w.fail("%s is %s; it is on the stream: %v, and waits: %v", name, rec.status, onStream, waits)
	case rec.status == "running" && holder == "":
		w.fail("%s is running, and its entry is not pending", name)
	case rec.deliveries[rec.attempt] != nil && holder != rec.deliveries[rec.attempt].worker:
		w.fail("%s is %s and was given to %s, and its entry is pending for %q", name, rec.status, rec.deliveries[rec.attempt].worker, holder)
	case !planned:
		w.fail("%s is %s, and nothing will be decided of it", name, rec.status)
	case at > float64(rec.deadline.UnixMilli()), rec.status == "scheduled" && at > float64(rec.release.UnixMilli()):
		w.fail("%s is %s until %s, and is looked at %v ms too late", name, rec.status, rec.release, at-float64(rec.deadline.UnixMilli()))
	}
}

func instant(ms string) time.Time {
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(n)
}
