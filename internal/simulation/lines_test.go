package simulation_test

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The scores of what waits: below are places in the line, from instants on until when, and
// at gated those that wait for their gate.
const (
	instants = 9e11
	gated    = 9007199254740991
	apart    = 1e-5 // places are no closer
)

// checkLine holds the line of a service to its limit: nobody stands in it while there is
// room, and no more than may be are at its workers.
func (w *world) checkLine(at, service string, onStream int, waiting map[string]float64) {
	if most := services[service].Concurrency; most > 0 && onStream > most {
		w.fail("%d requests of %s are at its workers, and %d may be", onStream, service, most)
	}
	if added := w.redis.HGet(at+"counts", "a:"+service); added != strconv.Itoa(w.added[at+service]) && (added != "" || w.added[at+service] != 0) {
		w.fail("%d requests of %s came to its stream to stay, and %q are counted", w.added[at+service], service, added)
	}
	for _, name := range slices.Sorted(maps.Keys(waiting)) {
		rec := w.named[name]
		if rec == nil || rec.forgotten || rec.ended() || rec.service != service {
			w.fail("%s waits for %s, and there is no such request", name, service)
			return
		}
		score := waiting[name]
		switch {
		case score < instants && (rec.status != "queued" || !rec.release.IsZero() || score != rec.place):
			w.fail("%s is %s, at the place %v, and stands in the line at %v", rec.called(), rec.status, rec.place, score)
		case score >= instants && score < gated && (rec.status != "scheduled" || score != float64(rec.release.UnixMilli())):
			w.fail("%s is %s until %s, and waits until %v", rec.called(), rec.status, rec.release, score)
		}
		if served := w.served(at, service); score < instants && score < served-apart {
			w.fail("%s stands at the place %v, and the line of %s has come to %v", rec.called(), score, service, served)
		}
		if limit := w.redis.HGet(at+"limits", service); limit == "0" && w.redis.HGet(at+"limits", "paused:"+service) == "" {
			w.fail("%s stands in the line of %s, of which none may run, and it is not paused", rec.called(), service)
		}
		if limit, err := strconv.Atoi(w.redis.HGet(at+"limits", service)); score < instants && (err != nil || onStream < limit) {
			w.fail("%s stands in the line of %s, and there is room: %d at the workers, and %q may be", rec.called(), service, onStream, w.redis.HGet(at+"limits", service))
		}
	}
}

// served is how far the line of a service has come.
func (w *world) served(at, service string) float64 {
	f, _ := strconv.ParseFloat(w.redis.HGet(at+"line:"+service, "served"), 64)
	return f
}

// checkMoved holds who was moved to the place that it had, or got, and counts who came to
// the stream.
func (w *world) checkMoved(rec *record) {
	was, back := rec.was, rec.attempt > 1
	if rec.works() && rec.entry != was.entry {
		if rec.entry != "" {
			w.added[rec.at+rec.service]++
		}
		if was.entry != "" && rec.attempt == was.attempt && !rec.forgotten { // no worker had it
			w.added[rec.at+rec.service]--
		}
	}
	if rec.ended() || rec.forgotten || rec.holds[rec.attempt] != nil || was.entry != "" && was.place == 0 && rec.attempt == was.attempt {
		return // what was held is put back behind all, and who had no place behind who is before it
	}
	switch served := w.served(rec.at, rec.service); {
	case rec.attempt == was.attempt && was.place > 0 && rec.place != was.place:
		w.fail("%s had the place %v, and has %v", rec.called(), was.place, rec.place)
	case back && rec.place != was.place && rec.place > served+apart:
		w.fail("%s comes back to the place %v, and the line of %s has come to %v", rec.called(), rec.place, rec.service, served)
	}
}

// checkHeard holds what changed to who waits for it, or for what it is a part of.
func (w *world) checkHeard(rec *record) {
	was := rec.was
	if was.attempt == 0 || rec.forgotten || rec.entry == was.entry && rec.status == was.status && rec.attempt == was.attempt && rec.seq == was.seq {
		return
	}
	for _, name := range append(strings.Fields(was.parents), rec.name) {
		of := w.named[name]
		if of == nil || of != rec && of.was.ended() {
			continue
		}
		for _, waiter := range strings.Fields(of.was.waiters) {
			if (w.doing == "settle.lua" || w.doing == "succeed.lua") && strings.TrimPrefix(waiter, "+") == w.by { // the answer tells it
				continue
			}
			if !slices.ContainsFunc(w.published, func(p [2]string) bool { return p[0] == "cc:wake:"+waiter && strings.Contains(p[1], name) }) {
				w.fail("%s was %s in attempt %d, and is %s in attempt %d, and %s does not hear of %s", rec.called(), was.status, was.attempt, rec.status, rec.attempt, waiter, of.called())
			}
		}
	}
}

// entryTime is when Redis took an entry of a stream.
func entryTime(entry string) time.Time {
	ms, _, _ := strings.Cut(entry, "-")
	return instant(ms)
}
