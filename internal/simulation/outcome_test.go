package simulation_test

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// checkAgain holds another attempt to what ended the one before.
func (w *world) checkAgain(rec *record, attempt int) {
	d, first, h := rec.deliveries[attempt], rec.decided[attempt], rec.holds[attempt]
	switch {
	case rec.attempt != attempt+1:
		w.fail("%s went from attempt %d to %d", rec.called(), attempt, rec.attempt)
	case d == nil && h != nil && !time.Now().Before(h.at.Add(rec.rest-2*time.Millisecond)): // a gateway held it for too long
	case d == nil:
		w.fail("%s has attempt %d, and nobody had attempt %d", rec.called(), rec.attempt, attempt)
	case first != nil && first.sure && first.kind != "retry":
		w.fail("%s has attempt %d, although Redis took %s of attempt %d in time: the reply is lost", rec.called(), rec.attempt, first.kind, attempt)
	case first == nil && time.Now().Before(d.alive.Add(rec.rest-2*time.Millisecond)):
		w.fail("%s was taken away from %s before its lease was over", rec.called(), d.worker)
	}
}

// checkOutcome holds a new outcome to what led to it.
func (w *world) checkOutcome(rec *record) {
	ok := false
	switch rec.kind {
	case whole:
		ok = w.wholeEnds(rec)
	case sharer:
		ok = w.sharerEnds(rec)
	default:
		ok = w.workEnds(rec)
	}
	if ok {
		return
	}
	what, sure := "nothing", false
	if first := rec.decided[rec.attempt]; first != nil {
		what, sure = first.kind+" "+first.body, first.sure
	}
	w.fail("%s is %s (%s) with %q in attempt %d, which %s decided first (in time: %v)", rec.called(), rec.status, rec.reason, rec.reply, rec.attempt, what, sure)
}

// workEnds tells whether the outcome of what a worker is given may be.
func (w *world) workEnds(rec *record) bool {
	first, now := rec.decided[rec.attempt], time.Now()
	sure := first != nil && first.sure
	said := func(r *reply, kind string) bool {
		return r.kind == kind && (kind == "retry" || rec.minimal || r.body == rec.reply)
	}
	of := func(kind string) bool { // a reply of that kind led to it
		if sure {
			return said(first.reply, kind)
		}
		return slices.ContainsFunc(rec.arrived, func(r *reply) bool { return !w.late[r.body] && r.attempt == rec.attempt && said(r, kind) })
	}
	silent := func() bool {
		d, h := rec.deliveries[rec.attempt], rec.holds[rec.attempt]
		if d == nil && h != nil { // a gateway held it for too long
			return !now.Before(h.at.Add(rec.rest - 2*time.Millisecond))
		}
		return d != nil && !sure && !now.Before(d.alive.Add(rec.rest-2*time.Millisecond))
	}
	switch rec.status + " " + rec.reason {
	case "canceled client":
		switch rec.kind {
		case leg:
			return rec.of.status == rec.status && rec.of.reason == rec.reason
		case shared: // nobody waits for it any more
			return !slices.ContainsFunc(rec.parts, func(s *record) bool { return !s.ended() && w.there(s.key()) })
		}
		return rec.request.canceling || rec.request.deleting
	case "canceled scatter":
		return rec.kind == leg && rec.of.ended()
	case "succeeded ":
		return of("final")
	case "failed worker":
		return of("failed")
	case "failed max_attempts":
		return rec.attempt == rec.max && (of("retry") || silent())
	case "timed_out total":
		return !sure && !now.Before(rec.deadline)
	case "timed_out start":
		return !sure && rec.start > 0 && !now.Before(rec.created.Add(rec.start))
	case "timed_out run":
		return !sure && rec.run > 0 && !now.Before(rec.started.Add(rec.run))
	case "timed_out stall":
		return rec.kind == leg && rec.of.ended() && (rec.of.reason == "stall" || rec.of.reason == "partial")
	}
	return false
}

// scattered reads how far a scatter is.
func (rec *record) scattered() (min, succeeded, ended, bytes int, stall time.Duration, partial bool, latest time.Time) {
	f := strings.Fields(rec.scatter)
	n := make([]int, len(f))
	for i := range f {
		n[i], _ = strconv.Atoi(f[i])
	}
	return n[1], n[4], n[5], n[7], time.Duration(n[2]) * time.Millisecond, n[3] == 1, time.UnixMilli(int64(n[6]))
}

// wholeEnds tells whether the outcome of a scatter is what its legs say.
func (w *world) wholeEnds(rec *record) bool {
	min, succeeded, ended, _, stall, partial, latest := rec.scattered()
	open, now := len(rec.parts)-ended, time.Now()
	over, stalled := !now.Before(rec.deadline), stall > 0 && !now.Before(latest.Add(stall))
	some := partial && succeeded > 0
	switch rec.status + " " + rec.reason {
	case "canceled client":
		return rec.request.canceling || rec.request.deleting
	case "succeeded ":
		return succeeded == min
	case "succeeded partial":
		return some && succeeded < min && (open == 0 || over || stalled)
	case "failed min_replies":
		return !some && open+succeeded < min && (!partial || open == 0)
	case "timed_out total":
		return over && !some
	case "timed_out stall":
		return stalled && !some
	}
	return false
}

// sharerEnds tells whether the outcome of a request that shares a run is that of the
// run, or its own clock's.
func (w *world) sharerEnds(rec *record) bool {
	run, now := rec.of, time.Now()
	_, how, _ := strings.Cut(rec.shared, " ")
	how, _, _ = strings.Cut(how, " ")
	over := func(end time.Time) bool { // and no reply came before
		for _, first := range run.decided {
			if first.sure && first.kind != "retry" && first.taken.After(rec.created) && first.taken.Before(end.Add(-2*time.Millisecond)) {
				return false
			}
		}
		return !now.Before(end)
	}
	switch rec.status + " " + rec.reason {
	case "canceled client":
		return rec.request.canceling || rec.request.deleting
	case "timed_out total":
		return over(rec.deadline) || run.status == "timed_out"
	case "timed_out start":
		return rec.start > 0 && over(rec.created.Add(rec.start))
	case "timed_out run":
		return rec.run > 0 && over(rec.started.Add(rec.run))
	}
	if how == "hit" {
		return rec.status == "succeeded" && run.status == "succeeded" && now.Sub(run.finished) <= services[rec.service].CacheTTL+round
	}
	return rec.status == run.status && rec.reason == run.reason && rec.code == run.code && rec.finished.Equal(run.finished)
}

// checkParts holds a whole to its legs, and a shared run to those who share it.
func (w *world) checkParts(rec *record) {
	if rec.forgotten || w.broken != nil {
		return
	}
	var open, succeeded, bytes int
	mourned := false
	for _, part := range rec.parts {
		if !part.ended() && !part.forgotten {
			open++
		}
		if part.status == "succeeded" {
			succeeded++
		}
		if part.ended() {
			bytes += len(part.reply)
		}
		mourned = mourned || !part.forgotten && dead(part.status)
	}
	switch rec.kind {
	case whole:
		_, counted, ended, size, _, _, _ := rec.scattered()
		answers := 0
		for _, e := range rec.events {
			if strings.HasPrefix(strings.Fields(e)[1], "answer/") {
				answers++
			}
		}
		switch {
		case rec.ended() && open > 0:
			w.fail("%s is %s, and %d of its legs are open", rec.called(), rec.status, open)
		case !rec.ended() && (counted != succeeded || ended != len(rec.parts)-open || size != bytes):
			w.fail("%s counts %d ended, %d succeeded, %d bytes, and of its legs %d ended and %d succeeded with %d", rec.called(), ended, counted, size, len(rec.parts)-open, succeeded, bytes)
		case answers != ended:
			w.fail("%s tells of %d answers, and counts %d", rec.called(), answers, ended)
		}
	case shared:
		var waiting []string
		for _, s := range rec.parts {
			if !s.ended() && !s.forgotten {
				waiting = append(waiting, s.name)
			}
		}
		switch {
		case rec.ended() && open > 0:
			w.fail("%s is %s, and %d who share it have no outcome", rec.called(), rec.status, open)
		case !rec.ended() && open == 0:
			w.fail("%s is %s, and nobody waits for it", rec.called(), rec.status)
		case !rec.ended() && !slices.Equal(slices.Sorted(strings.FieldsSeq(rec.parents)), slices.Sorted(slices.Values(waiting))):
			w.fail("%s tells %s, and %s wait for it", rec.called(), rec.parents, waiting)
		case rec.ended() && mourned && !rec.parked:
			w.fail("dead letters shared %s, whose body is gone", rec.called())
		}
	}
}
