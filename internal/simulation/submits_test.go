package simulation_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// callbacks are what clients want to be told of.
var callbacks = [][]string{
	{"succeeded", "failed", "timed_out", "canceled"}, {"succeeded", "failed", "timed_out", "canceled", "progress"}, {"failed", "progress"},
}

// submitNew has a client submit a request that nobody knows of.
func (w *world) submitNew(g *gate) {
	if w.batching && w.draw.IntN(4) == 0 {
		w.submitBatch(g)
		return
	}
	w.newRequest(false).submit(g)
}

// newRequest draws one, to one service where it is to be single.
func (w *world) newRequest(single bool) *request {
	r := &request{world: w, name: fmt.Sprintf("r%d", len(w.requests))}
	r.body = "body of " + r.name
	r.wants = broker.Submission{Tenant: broker.DefaultTenant, Service: "echo", Tags: []string{r.name}, Minimal: w.draw.IntN(8) == 0}
	if w.lining && !single && w.draw.IntN(3) == 0 {
		r.wants.Tenant = tenants[1]
	}
	if w.lining && w.draw.IntN(3) == 0 {
		r.wants.Priority = broker.Priorities[w.draw.IntN(len(broker.Priorities))]
	}
	if w.draw.IntN(3) == 0 {
		r.wants.Callback = &broker.Callback{URL: "https://receiver.example/", Events: callbacks[w.draw.IntN(len(callbacks))]}
		w.calling = true
	}
	switch w.draw.IntN(12) {
	case 0: // after a while
		r.wants.Delay = time.Duration(1+w.draw.IntN(800)) * time.Millisecond
	case 1, 2: // one after the other
		r.wants.OrderingKey = "an order"
	case 3, 4: // what others ask for too
		r.wants.Service, r.body = "same", fmt.Sprint("content ", w.draw.IntN(2))
		r.wants.Timeout = time.Duration(1000+w.draw.IntN(3000)) * time.Millisecond
	case 5: // to several services
		if !single {
			r.scatter()
		}
	case 6: // that has time
		r.wants.Service = "slow"
	case 7: // few of one key at once
		r.wants.ConcurrencyKey = "a key"
	case 8: // of which few run at once
		r.wants.Service = "left"
	case 9:
		if w.lining { // so that some wait
			r.wants.Service = "left"
		}
	}
	// One without a key goes to any partition, which hangs on chance and not on the seed.
	if len(w.partitions) > 1 || w.draw.IntN(2) == 0 {
		r.key = "key of " + r.name
	}
	r.wants.Body, r.wants.IdempotencyKey = []byte(r.body), r.key
	w.requests = append(w.requests, r)
	return r
}

// scatter has a request go to two or three services.
func (r *request) scatter() {
	draw := r.world.draw
	r.legs = &broker.Scatter{AcceptPartial: draw.IntN(2) == 0}
	for _, service := range serviceNames[:2+draw.IntN(2)] {
		r.legs.Legs = append(r.legs.Legs, broker.Submission{Service: service, Body: []byte(r.body)})
	}
	r.legs.MinReplies = 1 + draw.IntN(len(r.legs.Legs))
	if draw.IntN(4) == 0 {
		r.legs.StallTimeout = time.Duration(500+draw.IntN(1500)) * time.Millisecond
	}
	if draw.IntN(4) == 0 {
		r.wants.Delay = time.Duration(1+draw.IntN(800)) * time.Millisecond
	}
}

func (r *request) submit(g *gate) {
	if r.batch != nil {
		r.batch.submit(g)
		return
	}
	w := r.world
	r.tries++
	w.call(g, "submit "+r.name, func() func() {
		var got broker.Record
		var replayed bool
		var err error
		if r.legs == nil {
			got, replayed, err = g.broker.Submit(context.Background(), r.wants)
		} else {
			legs := *r.legs
			legs.Submission = r.wants
			got, replayed, err = g.broker.Scatter(context.Background(), legs)
		}
		return func() { r.answered(got, replayed, err) }
	})
}

// answered looks at what a client hears of its submit.
func (r *request) answered(got broker.Record, replayed bool, err error) {
	w := r.world
	switch {
	case errors.Is(err, broker.ErrUnknownOutcome):
		w.excuse(err)
	case err != nil:
		r.refusals++
		w.excuse(err)
	case r.key == "" && replayed:
		w.fail("%s has no key, and was accepted before", r.name)
	case (r.known || r.batch != nil && replayed) && r.forgotten(got.ID): // an answer that was long on its way
	case r.known && got.ID != r.id && !r.forgotten(r.id):
		w.fail("%s was accepted as %s and as %s", r.name, r.id, got.ID)
	default:
		if got.ID != r.id {
			r.id, r.known, r.seen = got.ID, true, nil
		}
		r.saw(got, nil)
	}
}
