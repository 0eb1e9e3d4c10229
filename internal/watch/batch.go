package watch

import "github.com/coatcheck/coatcheck/internal/correlation"

// Listener is told when a batch may have changed. A batch has no record, so who
// listens reads it, and reads again by a clock of its own: hints can be lost.
type Listener struct {
	hub   *Hub
	id    correlation.ID
	again chan struct{} // capacity 1; the hub sends, the listener receives, nobody closes
}

// Listen registers a listener in this process. Read the batch with Attach after
// it, and Close it.
func (h *Hub) Listen(id correlation.ID) *Listener {
	l := &Listener{hub: h, id: id, again: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listeners[id] == nil {
		h.listeners[id] = map[*Listener]struct{}{}
	}
	h.listeners[id][l] = struct{}{}
	return l
}

// Again receives when the batch may have changed.
func (l *Listener) Again() <-chan struct{} { return l.again }

// Close ends it.
func (l *Listener) Close() {
	l.hub.mu.Lock()
	defer l.hub.mu.Unlock()
	delete(l.hub.listeners[l.id], l)
	if len(l.hub.listeners[l.id]) == 0 {
		delete(l.hub.listeners, l.id)
	}
}
