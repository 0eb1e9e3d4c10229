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
)

// checkLine holds the line of a service to its limit: nobody stands in it while there is
// room, and no more than may be are at its workers.
func (w *world) checkLine(at, service string, onStream int, waiting map[string]float64) {
	if most := services[service].Concurrency; most > 0 && onStream > most {
		w.fail("%d requests of %s are at its workers, and %d may be", onStream, service, most)
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
		if limit, err := strconv.Atoi(w.redis.HGet(at+"limits", service)); score < instants && (err != nil || onStream < limit) {
			w.fail("%s stands in the line of %s, and there is room: %d at the workers, and %q may be", rec.called(), service, onStream, w.redis.HGet(at+"limits", service))
		}
	}
}

// entryTime is when Redis took an entry of a stream.
func entryTime(entry string) time.Time {
	ms, _, _ := strings.Cut(entry, "-")
	return instant(ms)
}
