package simulation_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/correlation"
)

// batch is what clients know of requests that were submitted by one call.
type batch struct {
	world *world
	name  string // also its idempotency key
	items []*request
	id    correlation.ID
	known bool // a client has its ID
	seen  broker.Batch
}

// submitBatch has a client submit two or three requests by one call.
func (w *world) submitBatch(g *gate) {
	b := &batch{world: w, name: fmt.Sprintf("b%d", len(w.batches))}
	w.batches = append(w.batches, b)
	for range 2 + w.draw.IntN(2) {
		r := w.newRequest(true)
		r.batch, r.key = b, b.name
		b.items = append(b.items, r)
	}
	b.submit(g)
}

// submit has a gateway do what it does with the call of a client: each item for itself.
func (b *batch) submit(g *gate) {
	subs := make([]broker.Submission, len(b.items))
	for i, r := range b.items {
		r.tries++
		subs[i] = r.wants
	}
	b.world.call(g, "submit "+b.name, func() func() {
		ctx := context.Background()
		opened, err := g.broker.OpenBatch(ctx, broker.DefaultTenant, b.name, []byte(b.name), len(subs), subs)
		if err != nil {
			return func() { b.refused(err) }
		}
		got, replayed, errs := make([]broker.Record, len(subs)), make([]bool, len(subs)), make([]error, len(subs))
		var accepted []correlation.ID
		for i := range subs {
			subs[i].Batch = &broker.Item{Batch: opened.ID, Number: i, Ends: opened.Ends}
			subs[i].IdempotencyKey = fmt.Sprint(opened.ID, ".", i)
			if got[i], replayed[i], errs[i] = g.broker.Submit(ctx, subs[i]); errs[i] == nil {
				accepted = append(accepted, got[i].ID)
			}
		}
		closing := g.broker.CloseBatch(ctx, opened.ID, accepted)
		return func() {
			if closing != nil {
				b.world.excuse(closing)
			}
			if b.known && b.id != opened.ID {
				b.world.fail("%s was opened as %s and as %s", b.name, b.id, opened.ID)
			}
			b.id, b.known = opened.ID, true
			for i, r := range b.items {
				r.answered(got[i], replayed[i], errs[i])
			}
		}
	})
}

func (b *batch) refused(err error) {
	for _, r := range b.items {
		r.refusals++
	}
	b.world.excuse(err)
}

// read has a client look at how far the batch is.
func (b *batch) read(g *gate) {
	w, floor := b.world, b.seen
	w.call(g, "tell of "+b.name, func() func() {
		got, err := g.broker.Batch(context.Background(), b.id, broker.BatchAsk{After: floor.At, Open: true})
		return func() {
			switch {
			case errors.Is(err, broker.ErrGone):
				w.fail("%s is gone for a client", b.name)
			case err != nil:
				w.excuse(err)
			default:
				b.saw(got, floor)
			}
		}
	})
}

// saw holds what a client saw of a batch to what was known when it asked, and to what is.
func (b *batch) saw(got, floor broker.Batch) {
	w, before, news := b.world, 0, 0
	for _, status := range broker.Outcomes {
		if got.Outcomes[status] < floor.Outcomes[status] {
			w.fail("of %s were %d %s, and later %d", b.name, floor.Outcomes[status], status, got.Outcomes[status])
		}
		before, news = before+floor.Outcomes[status], news+got.Outcomes[status]
	}
	switch {
	case got.Open != len(got.Waiting):
		w.fail("of %s %d are open, and these: %v", b.name, got.Open, got.Waiting)
	case got.Accepted < floor.Accepted || got.Accepted > len(b.items) || got.Items != len(b.items):
		w.fail("%s has %d, of %d items were accepted %d, and before %d", b.name, len(b.items), got.Items, got.Accepted, floor.Accepted)
	case len(got.News) != news-before:
		w.fail("of %s %d had an outcome, %d have one, and new are %v", b.name, before, news, got.News)
	}
	for _, o := range got.News {
		if rec := w.named[o.ID.String()]; rec == nil || rec.item != fmt.Sprint(b.id, " ", o.Number) || string(o.Status) != rec.outcome() {
			w.fail("%s tells that its item %d, %s, is %s", b.name, o.Number, o.ID, o.Status)
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(b.seen.At)), func(p int) bool { return b.seen.At[p] > got.At[p] }) && got.Accepted >= b.seen.Accepted {
		b.seen = got // of two that were read at once, the later
	}
}

// outcome is that of a record, or "" for one that is open. Who deletes one that is open
// cancels it.
func (rec *record) outcome() string {
	switch {
	case rec.ended():
		return rec.status
	case rec.forgotten:
		return "canceled"
	}
	return ""
}

// checkBatches holds what the batches have in a partition to their items there.
func (w *world) checkBatches(at string) {
	counted := map[string]map[string]int{} // by batch: what of its hash
	lines, open := map[string][]string{}, map[string][]string{}
	for _, rec := range w.records {
		if rec.at != at || rec.item == "" {
			continue
		}
		id, number, _ := strings.Cut(rec.item, " ")
		if counted[id] == nil {
			counted[id] = map[string]int{}
		}
		counted[id]["accepted"]++
		if outcome := rec.outcome(); outcome != "" {
			counted[id][outcome]++
			lines[id] = append(lines[id], rec.name+" "+number+" "+outcome)
		} else {
			open[id] = append(open[id], rec.name)
		}
	}
	for id, counts := range counted {
		for _, what := range []string{"accepted", "succeeded", "failed", "timed_out", "canceled"} {
			if got := w.redis.HGet(at+"batch:"+id, what); got != fmt.Sprint(counts[what]) && (got != "" || counts[what] > 0) {
				w.fail("of the batch %s %d are %s, and it counts %q", id, counts[what], what, got)
			}
		}
		if there, _ := w.redis.Members(at + "open:" + id); !slices.Equal(there, slices.Sorted(slices.Values(open[id]))) {
			w.fail("of the batch %s are open %v, and it lists %v", id, open[id], there)
		}
		list, _ := w.redis.List(at + "outcomes:" + id)
		there := make([]string, len(list))
		for i, line := range list { // but for when
			there[i] = line[:strings.LastIndex(line, " ")]
		}
		slices.Sort(there)
		if !slices.Equal(there, slices.Sorted(slices.Values(lines[id]))) {
			w.fail("of the batch %s have an outcome %v, and it lists %v", id, lines[id], there)
		}
	}
}
