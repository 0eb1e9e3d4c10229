package simulation_test

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coatcheck/coatcheck/internal/correlation"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// kind is what a record is of.
type kind int

const (
	single kind = iota // a request to one service
	whole              // a scatter
	leg                // of a scatter
	shared             // a run that requests share
	sharer             // a request that shares a run
)

// record is what Redis holds of a request, or of a part of one, and what was true of it
// before.
type record struct {
	request *request
	kind
	number            int    // in the order in which they were found
	at, name, service string // prefix of the keys of its partition; an ID, a leg's and a shared run's with a number behind

	created, deadline           time.Time
	start, run, retention, rest time.Duration // rest is its lease
	max                         int
	gate                        string    // "" for none
	abreast                     int       // how many it lets in at once
	turn                        float64   // at its gate
	told                        string    // letters of the events that its client is told of, "" for none
	tenant                      string    // "" for the one without a name
	minimal                     bool      // its reply is not kept
	item                        string    // "batch number", "" for none
	of                          *record   // of a leg the whole, of a sharer the run
	parts                       []*record // of a whole its legs, of a shared run its sharers

	facts
	was       facts
	events    []string
	owing     map[string]bool // "type number" of callbacks → whether the receiver has it
	forgotten bool

	holds      map[int]*hold     // by attempt
	deliveries map[int]*delivery // by attempt
	decided    map[int]*deciding // by attempt
	arrived    []*reply          // that decide, in the order in which Redis took them
}

// facts are what may change.
type facts struct {
	status, reason, code, reply, entry, worker, shared, scatter, parents, waiters string

	again                      string // what it was redriven as
	attempt, seq, owed         int
	started, finished, release time.Time
	place                      float64 // in the line
	parked, long               bool    // its body is in the record; its reply is not
}

const (
	short = 64               // bytes of the largest reply that is kept in the record
	round = time.Millisecond // by as much times may differ that are counted from now
)

func (f facts) ended() bool { return terminal(f.status) }

// works tells whether a worker is given it.
func (rec *record) works() bool { return rec.kind != whole && rec.kind != sharer }

// listed tells whether it is of a client.
func (rec *record) listed() bool {
	return rec.kind == single || rec.kind == whole || rec.kind == sharer
}

func (rec *record) key() string { return rec.at + "request:" + rec.name }

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
	places, intents := map[string]bool{}, map[string]bool{} // prefixes of partitions
	seen := map[*record]bool{}
	var changed []*record // all is read before anything is looked at
	known := len(w.records)
	for _, key := range slices.Sorted(maps.Keys(touched)) {
		at, kind, name := parse(key)
		switch kind {
		case "request", "reply", "events":
			if rec := w.read(at, name, kind == "request"); rec != nil && !seen[rec] {
				seen[rec] = true
				changed = append(changed, rec)
			}
			places[at] = true
		case "queue", "waiting", "due", "clocks", "gate", "callbacks", "batch", "open", "outcomes":
			places[at] = true
		}
		intents[at] = intents[at] || kind == "callbacks" || kind == "due" || kind == "request"
	}
	fresh := w.records[known:]
	slices.SortStableFunc(fresh, func(a, b *record) int { return cmp.Compare(a.turn, b.turn) })
	for i, rec := range fresh {
		rec.number = known + i
	}
	slices.SortFunc(changed, func(a, b *record) int { return a.number - b.number })
	for _, rec := range changed {
		w.join(rec)
	}
	groups := map[*record]bool{}
	for _, rec := range changed {
		w.checkRecord(rec)
		w.checkMoved(rec)
		w.checkHeard(rec)
	}
	for _, rec := range changed {
		for _, group := range []*record{rec, rec.of} {
			if group != nil && !groups[group] {
				groups[group] = true
				w.checkParts(group)
			}
		}
	}
	for _, at := range w.partitions {
		if places[at] && w.broken == nil {
			w.checkPlaces(at)
		}
		if places[at] && len(w.batches) > 0 && w.broken == nil {
			w.checkBatches(at)
		}
		if intents[at] && w.broken == nil {
			w.checkIntents(at)
		}
		if touched["cc:paused"] || touched[at+"limits"] {
			w.checkSaid(at)
		}
	}
	for _, rec := range changed {
		rec.was = rec.facts
	}
	w.redis.news()
}

// read reads a record anew, nil where there was and is none.
func (w *world) read(at, name string, may bool) *record {
	rec := w.named[name]
	get := w.fields(at + "request:" + name)
	if get("plan") == "" {
		return rec
	}
	if rec != nil && rec.forgotten { // though a submit may still have been under way
		w.fail("%s was forgotten, and is there again", rec.called())
		rec = nil
	}
	if rec == nil && may {
		rec = w.found(at, name, get)
	}
	if rec == nil {
		return nil
	}
	f := facts{
		status: get("status"), reason: get("reason"), code: get("code"), reply: get("reply"), entry: get("entry"), worker: get("worker"),
		started: instant(get("started")), finished: instant(get("finished")), release: instant(get("release")), parked: get("body") != "",
		shared: get("shared"), scatter: get("scatter"), parents: get("parents"), waiters: get("waiters"), again: get("retried_as"),
	}
	f.attempt, _ = strconv.Atoi(get("attempt"))
	f.seq, _ = strconv.Atoi(get("seq"))
	f.owed, _ = strconv.Atoi(get("owed"))
	f.place, _ = strconv.ParseFloat(get("place"), 64)
	if elsewhere, err := w.redis.Get(at + "reply:" + name); err == nil {
		if f.reply != "" || len(elsewhere) <= short {
			w.fail("%s has the reply %q, and %q beside it", rec.called(), f.reply, elsewhere)
		}
		f.reply, f.long = elsewhere, true
	}
	rec.facts = f
	return rec
}

// there tells whether there is a record, and not only what is left of one that was deleted.
func (w *world) there(key string) bool { return w.fields(key)("plan") != "" }

// fields are those that Redis holds of a record, "" for one that it has not. Nothing else
// here knows how it holds them.
func (w *world) fields(key string) (get func(field string) string) {
	if text, err := w.redis.Get(key); err == nil {
		brief := redistest.Record(text)
		return func(field string) string { return brief[field] }
	}
	return func(field string) string { return w.redis.HGet(key, field) }
}

// called is how messages name it.
func (rec *record) called() string {
	if _, part, ok := strings.Cut(rec.name, "/"); ok {
		return rec.request.name + "/" + part
	}
	return rec.request.name
}

// found is a record that was not there before.
func (w *world) found(at, name string, get func(string) string) *record {
	rec := &record{at: at, name: name, service: get("service"), owing: map[string]bool{}, holds: map[int]*hold{}, deliveries: map[int]*delivery{}, decided: map[int]*deciding{}}
	id, _, part := strings.Cut(name, "/")
	switch {
	case part && w.named[id] == nil:
		w.fail("the record %s is a part of nothing", name)
		return nil
	case part && get("sharing") != "":
		rec.kind, rec.request = shared, w.named[id].request
	case part:
		rec.kind, rec.request = leg, w.named[id].request
	case get("scatter") != "":
		rec.kind = whole
	case get("shared") != "":
		rec.kind = sharer
	}
	if !part && !w.belongs(rec, get) {
		return nil
	}
	if home, err := correlation.Parse(id); err != nil || w.partitions[home.Partition()] != at {
		w.fail("%s stands in the partition %s", rec.called(), at)
	}
	plan := strings.Fields(get("plan"))
	ms := func(i int) time.Duration {
		n, _ := strconv.Atoi(plan[i])
		return time.Duration(n) * time.Millisecond
	}
	rec.created = instant(plan[0])
	rec.deadline, rec.start, rec.run, rec.rest, rec.retention = rec.created.Add(ms(1)), ms(2), ms(3), ms(4), ms(6)
	rec.max, _ = strconv.Atoi(plan[5])
	rec.tenant, rec.item, rec.minimal = get("tenant"), get("batch"), strings.Contains(plan[7], "m")
	if get("callback") != "" {
		rec.told = plan[7]
	}
	if policy := strings.Fields(get("policy")); len(policy) > 2 && policy[2] != "-" {
		rec.gate = policy[2]
		rec.abreast, _ = strconv.Atoi(policy[1])
		rec.turn, _ = w.redis.ZScore(at+"gate:"+rec.service+":"+rec.gate, name)
	}
	w.records = append(w.records, rec)
	w.named[name] = rec
	return rec
}

// belongs finds the request that a new record is of.
func (w *world) belongs(rec *record, get func(string) string) bool {
	for _, known := range w.requests {
		if known.name == get("tags") {
			rec.request = known
		}
	}
	if of := get("retry_of"); of != "" {
		rec.request = w.redriven(of, rec.name)
	}
	r := rec.request
	if r == nil {
		w.fail("the record %s is of no request: %q", rec.name, get("tags"))
		return false
	}
	for _, other := range r.records {
		if !other.forgotten && !other.old() || r.key == "" {
			w.fail("%s was accepted as %s and as %s", r.name, other.name, rec.name)
		}
	}
	r.records = append(r.records, rec)
	return true
}

// join has a new record know what it is a part of.
func (w *world) join(rec *record) {
	if rec.of != nil {
		return
	}
	switch rec.kind {
	case leg:
		rec.of = w.named[rec.parents]
	case sharer:
		run, _, _ := strings.Cut(rec.shared, " ")
		rec.of = w.named[run]
	default:
		return
	}
	if rec.of == nil {
		w.fail("%s is a part of %q%q, of which there is no record", rec.called(), rec.parents, rec.shared)
		return
	}
	rec.of.parts = append(rec.of.parts, rec)
}

// checkRecord holds a record to what it was, and to what led there.
func (w *world) checkRecord(rec *record) {
	name, was := rec.called(), rec.was
	if !w.there(rec.key()) {
		w.checkForgotten(rec)
		return
	}
	if rec.kind == sharer && rec.ended() && (rec.status == "succeeded" || rec.reason == "worker" || rec.reason == "max_attempts") && rec.of != nil {
		rec.reply = rec.of.reply
	}
	if was.ended() {
		if rec.status != was.status || rec.reason != was.reason || rec.code != was.code || rec.reply != was.reply ||
			rec.finished != was.finished || rec.seq != was.seq || rec.attempt != was.attempt || was.again != "" && rec.again != was.again {
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
	if rec.minimal && rec.reply != "" {
		w.fail("%s keeps the reply %q, and is to keep none", name, rec.reply)
	}
	if rec.status == "running" && rec.started.IsZero() {
		w.fail("%s is running since never", name)
	}
	w.checkEvents(rec)
	if rec.works() && rec.attempt > was.attempt && was.attempt > 0 {
		w.checkAgain(rec, was.attempt)
	}
	if rec.ended() && !was.ended() && w.broken == nil {
		w.checkOutcome(rec)
		rec.owes(rec.status, rec.seq+1)
	}
	w.checkTTL(rec)
}

// checkTTL holds a record to when it is forgotten.
func (w *world) checkTTL(rec *record) {
	ttl, now := w.redis.TTL(rec.key()), time.Now()
	early, late := time.Time{}, time.Time{}
	switch {
	case !rec.ended() || rec.kind == leg && !rec.of.ended():
		if ttl != 0 {
			w.fail("%s is %s, and its record expires in %v", rec.called(), rec.status, ttl)
		}
		return
	case rec.kind == leg:
		early, late = rec.of.finished.Add(rec.of.retention), rec.of.finished.Add(rec.of.retention)
	case rec.kind == shared:
		early = now
		for _, s := range rec.parts {
			if s.ended() && !s.forgotten && s.finished.Add(s.retention).After(early) {
				early = s.finished.Add(s.retention)
			}
		}
	default:
		early, late = rec.finished.Add(rec.retention), rec.finished.Add(rec.retention)
	}
	if owed := rec.owed > 0 || rec.kind == leg && rec.of.owed > 0; owed { // and then it outlives that
		late = time.Time{}
	}
	if at := now.Add(ttl); ttl == 0 || at.Before(early.Add(-round)) || !late.IsZero() && at.After(late.Add(round)) {
		w.fail("%s is %s of %s, and its record expires in %v", rec.called(), rec.status, rec.finished, ttl)
	}
	for key, has := range map[string]bool{"reply:": rec.long, "events:": len(rec.events) > 0 && rec.ended()} {
		if other := w.redis.TTL(rec.at + key + rec.name); has && rec.ended() && (other < ttl-round || other > ttl+round) {
			w.fail("%s expires in %v, and its %s in %v", rec.called(), ttl, strings.TrimSuffix(key, ":"), other)
		}
	}
}

// checkForgotten holds a record that is no more to why it may be.
func (w *world) checkForgotten(rec *record) {
	if rec.forgotten {
		return
	}
	rec.forgotten = true
	switch {
	case rec.kind == leg && rec.of.forgotten || rec.request.deleting && rec.kind != shared:
	case rec.kind == shared:
		for _, s := range rec.parts {
			if w.there(s.key()) {
				w.fail("%s is %s, and what it shared is gone", s.called(), s.status)
			}
		}
	case !rec.old():
		w.fail("%s was %s, and its record is gone", rec.called(), rec.status)
	case slices.Contains(slices.Collect(maps.Values(rec.owing)), false):
		w.fail("%s owes callbacks, and its record is gone", rec.called())
	}
	for _, key := range []string{"reply:", "events:"} {
		if w.redis.Exists(rec.at + key + rec.name) {
			w.fail("%s is forgotten, and its %s are not", rec.called(), strings.TrimSuffix(key, ":"))
		}
	}
}

// checkEvents holds the history to what it was: it only grows, and not after the end.
func (w *world) checkEvents(rec *record) {
	if rec.kind == leg || rec.kind == sharer { // the whole, and the run, tell of theirs
		return
	}
	key := rec.at + "events:" + rec.name
	events, err := w.redis.List(key)
	if err != nil && w.redis.Exists(key) || len(events) != rec.seq || len(events) < len(rec.events) || !slices.Equal(events[:len(rec.events)], rec.events) {
		w.fail("%s has %d events, it had %q, and has %q (%v)", rec.called(), rec.seq, rec.events, events, err)
		return
	}
	for i, event := range events[len(rec.events):] {
		if w.late[bodyOf(event)] {
			w.fail("%s tells of %q, which came late", rec.called(), bodyOf(event))
		}
		if kind := strings.Fields(event)[1]; kind == "progress" || strings.HasPrefix(kind, "progress/") {
			rec.owes("progress", len(rec.events)+i+1)
			for _, s := range rec.parts {
				if rec.kind == shared && !s.was.ended() {
					s.owes("progress", len(rec.events)+i+1)
				}
			}
		}
	}
	rec.events = events
}

func bodyOf(event string) string {
	_, body, _ := strings.Cut(event, "\n")
	return body
}

func instant(ms string) time.Time {
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(n)
}
