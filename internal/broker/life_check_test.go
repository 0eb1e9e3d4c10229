package broker_test

import (
	"fmt"
	"testing"

	"github.com/coatcheck/coatcheck/internal/broker"
)

// check reads everything as a client would and compares it with what was seen.
func (l *life) check(t *testing.T) error {
	for id, w := range l.requests {
		r, events, first, err := l.b.Events(t.Context(), id, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		old := w.record
		if old.Status.Terminal() && (r.Status != old.Status || !r.Finished.Equal(old.Finished) || r.Events != old.Events) {
			return fmt.Errorf("%s was %s with %d events, is %s with %d", id, old.Status, old.Events, r.Status, r.Events)
		}
		if old.RetriedAs != "" && r.RetriedAs != old.RetriedAs {
			return fmt.Errorf("%s was redriven as %s and as %q", id, old.RetriedAs, r.RetriedAs)
		}
		if r.Attempt < old.Attempt || r.Attempt > 3 || r.Events < old.Events {
			return fmt.Errorf("%s went from attempt %d, event %d to %d, %d", id, old.Attempt, old.Events, r.Attempt, r.Events)
		}
		if r.Attempt == old.Attempt && old.Status == broker.Running && r.Status == broker.Queued && !l.acked {
			return fmt.Errorf("%s was running and is queued, in the same attempt", id)
		}
		if err := l.checkLegs(r, old, events); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		if r.Legs == nil && r.Reply != nil && len(r.Reply.Body) > 0 && l.sent[string(r.Reply.Body)] != r.Attempt {
			return fmt.Errorf("%s: attempt %d ended with %q of attempt %d", id, r.Attempt, r.Reply.Body, l.sent[string(r.Reply.Body)])
		}
		for i, e := range events {
			if e.Number != first+i {
				return fmt.Errorf("%s: event %d stands at place %d", id, e.Number, first+i)
			}
			if before, ok := w.seen[e.Number]; ok && before != string(e.Body) {
				return fmt.Errorf("%s: event %d was %q, is %q", id, e.Number, before, e.Body)
			}
			w.seen[e.Number] = string(e.Body)
		}
		w.record = r
	}
	return nil
}

// checkLegs holds a scatter to what must be so: a leg ends once, each answer is one
// event and is counted once, and the outcome is what the legs say.
func (l *life) checkLegs(r, old broker.Record, events []broker.Event) error {
	succeeded, closed, answers := 0, 0, map[string]int{}
	for _, e := range events {
		if e.Leg != nil {
			answers[e.Service]++
		}
	}
	for i, leg := range r.Legs {
		if before := old.Legs[i]; before.Status.Terminal() && (leg.Status != before.Status || leg.Attempt != before.Attempt || !leg.Finished.Equal(before.Finished)) {
			return fmt.Errorf("leg %s was %+v, is %+v", leg.Service, before, leg)
		}
		if leg.Attempt > 3 {
			return fmt.Errorf("leg %s has attempt %d", leg.Service, leg.Attempt)
		}
		if r.Status.Terminal() && !leg.Status.Terminal() {
			return fmt.Errorf("it is %s, its leg %s is %s", r.Status, leg.Service, leg.Status)
		}
		if leg.Reply != nil && len(leg.Reply.Body) > 0 && l.sent[string(leg.Reply.Body)] != leg.Attempt {
			return fmt.Errorf("attempt %d of leg %s ended with %q of attempt %d", leg.Attempt, leg.Service, leg.Reply.Body, l.sent[string(leg.Reply.Body)])
		}
		if leg.Status == broker.Succeeded {
			succeeded++
		}
		if leg.Status.Terminal() {
			if answers[leg.Service] == 0 {
				closed++
			}
		}
		if answers[leg.Service] > 1 {
			return fmt.Errorf("leg %s answered %d times", leg.Service, answers[leg.Service])
		}
	}
	switch {
	case r.Legs == nil:
	case !r.Status.Terminal() && (closed > 0 || succeeded >= r.MinReplies):
		return fmt.Errorf("it is %s with %d closed and %d succeeded of %d", r.Status, closed, succeeded, r.MinReplies)
	case r.Status == broker.Succeeded && r.Reason == "" && succeeded != r.MinReplies:
		return fmt.Errorf("it succeeded with %d of %d", succeeded, r.MinReplies)
	case r.Reason == "partial" && (succeeded == 0 || succeeded >= r.MinReplies):
		return fmt.Errorf("it succeeded in part with %d of %d", succeeded, r.MinReplies)
	case r.Status == broker.Failed && len(r.Legs)-len(answers)+succeeded >= r.MinReplies:
		return fmt.Errorf("it failed when %d of %d could still succeed", len(r.Legs)-len(answers)+succeeded, r.MinReplies)
	}
	return nil
}
