package simulation_test

import (
	"context"
	"errors"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// dead tells whether what has this outcome can be redriven.
func dead(status string) bool { return status == "failed" || status == "timed_out" }

// redrive has a client ask for another run of a dead letter.
func (r *request) redrive(g *gate) {
	w, id := r.world, r.id
	w.call(g, "redrive "+r.name, func() func() {
		got, _, err := g.broker.Retry(context.Background(), id)
		return func() {
			old, made := w.named[id.String()], w.named[got.ID.String()]
			switch {
			case errors.Is(err, broker.ErrGone) && (r.deleting || r.forgotten(id)):
			case errors.Is(err, broker.ErrGone):
				if again := w.named[old.again]; again == nil || !again.request.deleting && !again.old() { // else it was, and that is gone
					w.fail("%s can't be redriven: its body is gone", r.name)
				}
			case errors.Is(err, broker.ErrNotDead):
				if r.legs == nil && dead(old.status) {
					w.fail("%s is %s, and can't be redriven", r.name, old.status)
				}
			case err != nil:
				w.excuse(err)
			case made == nil || old.again != made.name:
				w.fail("%s was redriven as %s, and knows of %q", r.name, got.ID, old.again)
			case !made.forgotten:
				n := made.request
				if !n.known {
					n.id, n.known = got.ID, true
				}
				n.saw(got, nil)
			}
		}
	})
}

// redriven is the request that was made of the dead letter old.
func (w *world) redriven(old, name string) *request {
	rec := w.named[old]
	if rec == nil || !dead(rec.status) || rec.again != "" && rec.again != name {
		w.fail("%s was made of %s", name, old)
		return nil
	}
	r := &request{world: w, name: rec.request.name + " again", body: rec.request.body, tries: 1}
	w.requests = append(w.requests, r)
	return r
}
