package watch

import "github.com/coatcheck/coatcheck/internal/broker"

// A wake-up that tells of an outcome saves the read of it. It came after what was read
// of the request here, or that would have had the outcome; so it says where the request
// stood at an instant since then, as the read would. Who comes later reads: the request
// may have been forgotten meanwhile, or retried.

// end notes the outcome that was told; nil is a hint alone. It is called with the hub's
// mu held.
func (t *topic) end(o *broker.Outcome) {
	if o == nil || t.base == nil || t.unread && !o.Lasts() {
		return
	}
	if r, ok := t.base.Ended(o); ok {
		t.told = &Answer{Record: r, shared: &shared{}}
		t.base, t.seen = nil, r.Sight()
	}
}

// told is the outcome, where this waiter saw the request open, and has seen all events
// but that.
func (w *Watch) told(after int) (Answer, bool) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	a := w.topic.told
	if a == nil || !w.seen || after != attach && after != a.Record.Events-1 {
		return Answer{}, false
	}
	return *a, true
}
