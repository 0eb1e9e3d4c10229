package simulation_test

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// places are what refers to requests in one partition.
type places struct {
	stream       map[string]bool   // entries of all services
	pending      map[string]string // entry → worker
	due, waiting map[string]float64
	clocks       map[string]float64 // of who waits together with others, when that group is looked at
}

// checkPlaces holds all that refers to the requests of a partition to what they are.
func (w *world) checkPlaces(at string) {
	p := places{map[string]bool{}, map[string]string{}, map[string]float64{}, map[string]float64{}, map[string]float64{}}
	for _, service := range serviceNames {
		entries, _ := w.redis.Stream(at + "queue:" + service)
		for _, e := range entries {
			p.stream[service+" "+e.ID] = true
		}
		if len(entries) > 0 {
			flat := list(w.redis.run([]string{"XPENDING", at + "queue:" + service, "workers", "-", "+", "100"}))
			for i := 0; i+3 < len(flat); i += 4 {
				p.pending[service+" "+flat[i]] = flat[i+1]
			}
		}
		waits, _ := w.redis.SortedSet(at + "waiting:" + service)
		w.checkLine(at, service, len(entries), waits)
		maps.Copy(p.waiting, waits)
	}
	due, _ := w.redis.SortedSet(at + "due")
	for member, score := range due {
		if !strings.HasPrefix(member, "callback ") {
			p.due[member] = score
		}
	}
	groups, _ := w.redis.SortedSet(at + "clocks")
	for member, score := range groups {
		for _, id := range grouped(member) {
			p.clocks[id] = score
		}
	}
	open, listed := 0, map[string]int{} // by tenant
	gates := map[string][]string{}      // who is at which, first come first
	for _, rec := range w.records {
		if rec.at != at || rec.forgotten {
			continue
		}
		w.checkPlace(rec, p, gates)
		gate := at + "gate:" + rec.service + ":" + rec.gate
		if rec.gate != "" && gates[gate] == nil {
			gates[gate] = []string{}
		}
		if rec.ended() {
			continue
		}
		if _, due := p.due[rec.name]; due {
			open++
		}
		if rec.listed() {
			listed[rec.tenant]++
		}
		if rec.works() {
			delete(p.stream, rec.service+" "+rec.entry)
			delete(p.pending, rec.service+" "+rec.entry)
		}
		if rec.gate != "" {
			gates[gate] = append(gates[gate], rec.name)
		}
	}
	if len(p.stream)+len(p.pending) > 0 {
		w.fail("entries of nobody: on the stream %v, pending %v", slices.Sorted(maps.Keys(p.stream)), p.pending)
	}
	if len(p.due) != open {
		w.fail("%d requests are due some time, of which %d are open", len(p.due), open)
	}
	for _, tenant := range tenants {
		if known, _ := w.redis.SortedSet(at + "listing:open:" + tenant); len(known) != listed[tenant] {
			w.fail("%d requests of the tenant %q are open, and %d are listed as that", listed[tenant], tenant, len(known))
		}
	}
	for gate, order := range gates {
		if there, _ := w.redis.ZMembers(gate); !slices.Equal(there, order) {
			w.fail("at %s are %v, and %v should be, in this order", gate, there, order)
		}
	}
}

// grouped are the IDs in a group: "accepted due length tenant" and they follow at once.
func grouped(member string) []string {
	f := strings.SplitN(member, " ", 4)
	length, _ := strconv.Atoi(f[2])
	return strings.Fields(f[3][length:])
}

func (w *world) checkPlace(rec *record, p places, gates map[string][]string) {
	name := rec.called()
	onStream, holder := p.stream[rec.service+" "+rec.entry], p.pending[rec.service+" "+rec.entry]
	at, planned := p.due[rec.name]
	if strings.HasPrefix(holder, "http:") && rec.works() && !rec.ended() && rec.deliveries[rec.attempt] == nil {
		w.entrusted(rec, holder)
	}
	look, together := p.clocks[rec.name]
	if together && (!planned || look < at) {
		at = look
	}
	score, waits := p.waiting[rec.name]
	if !rec.works() { // others have the entry
		switch {
		case waits, rec.parked, planned == rec.ended():
			w.fail("%s is %s; due: %v, waiting: %v, body kept: %v", name, rec.status, planned, waits, rec.parked)
		case planned && at > float64(rec.deadline.UnixMilli()):
			w.fail("%s is %s, and is looked at %v ms too late", name, rec.status, at-float64(rec.deadline.UnixMilli()))
		}
		return
	}
	kept := rec.kind == single && dead(rec.status) && rec.again == ""
	first := rec.gate == "" || len(gates[rec.at+"gate:"+rec.service+":"+rec.gate]) < rec.abreast
	switch {
	case rec.ended():
		if onStream || planned || waits || rec.kind != shared && rec.parked != kept {
			w.fail("%s is %s; on the stream: %v, due: %v, waiting: %v, body kept: %v", name, rec.status, onStream, planned, waits, rec.parked)
		}
		return
	case onStream == rec.parked:
		w.fail("%s is %s; its body is on the stream: %v, and in the record: %v", name, rec.status, onStream, rec.parked)
	case waits == onStream:
		w.fail("%s is %s; it is on the stream: %v, and waits: %v", name, rec.status, onStream, waits)
	case !first && onStream:
		w.fail("%s is on the stream, and it is not its turn", name)
	case first && waits && score == gated:
		w.fail("%s waits for its turn, and it is its turn", name)
	case onStream && holder == "" && w.halts[rec.service].holds():
		w.fail("%s is there for any worker, and %s is paused", name, rec.service)
	case rec.status == "running" && holder == "":
		w.fail("%s is running, and its entry is not pending", name)
	case rec.deliveries[rec.attempt] != nil && holder != rec.deliveries[rec.attempt].worker:
		w.fail("%s is %s and was given to %s, and its entry is pending for %q", name, rec.status, rec.deliveries[rec.attempt].worker, holder)
	case onStream && rec.run > 0 && at > float64(time.Now().Add(max(rec.run, time.Second)).UnixMilli()):
		w.fail("%s may run for %v, and is looked at in %v ms", name, rec.run, at-float64(time.Now().UnixMilli()))
	case onStream && rec.place > w.served(rec.at, rec.service)+apart:
		w.fail("%s is on the stream from the place %v, and the line of %s has come to %v", name, rec.place, rec.service, w.served(rec.at, rec.service))
	case !planned && !together:
		w.fail("%s is %s, and nothing will be decided of it", name, rec.status)
	case at > float64(rec.deadline.UnixMilli()), rec.status == "scheduled" && at > float64(rec.release.UnixMilli()):
		w.fail("%s is %s until %s, and is looked at %v ms too late", name, rec.status, rec.release, at-float64(rec.deadline.UnixMilli()))
	}
}
