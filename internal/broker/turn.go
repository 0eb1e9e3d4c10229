package broker

import "context"

// turn lets one goroutine at a time ask Redis for what others want to know too. It is no
// mutex, since Redis may be slow: who waits for its turn waits no longer than its context
// lets it, and a test in a bubble of synctest goes on meanwhile.
type turn chan struct{} // capacity 1: whose turn it is sends to it, and receives when that is over

func newTurn() turn { return make(turn, 1) }

// take waits until nobody else has it. ErrUnavailable, where ctx ends before.
func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	default:
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fault("wait for Redis to be asked", ctx.Err())
	}
}

func (t turn) give() { <-t }
