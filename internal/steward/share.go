package steward

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/coatcheck/coatcheck/internal/loop"
)

const (
	divideEvery = 500 * time.Millisecond // how soon one that comes or goes changes what the others have
	absent      = lease                  // a gateway that was silent for so long does not count
	yield       = 2 * spread             // how long those who have less go first
	sayWithin   = time.Second
)

// share is how many of the partitions this process should have, and which it has.
//
// Every gateway tells all others twice a second how many it has, and finds from the
// same figures how many each should have. Who has more gives some up; who has less
// takes what is free at once, and everybody else a moment later: nothing stays free
// because somebody was believed to take it.
type share struct {
	mu       sync.Mutex // guards the rest
	want     int
	reserved int                        // of want: being taken
	has      map[int]context.CancelFunc // by partition: gives it up
	raised   chan struct{}              // closed, and made anew, when there is one to take

	doubted chan struct{} // capacity 1: somebody gave something up, and may be gone
}

func newShare() *share {
	return &share{want: math.MaxInt, has: map[int]context.CancelFunc{}, raised: make(chan struct{}), doubted: make(chan struct{}, 1)}
}

func (s *share) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.has)
}

// turn returns when it is this process' turn to try for a partition: at once where it
// should have more, and true since that is reserved then; else a moment later.
func (s *share) turn(ctx context.Context) (reserved bool) {
	last := time.NewTimer(yield)
	defer last.Stop()
	for {
		s.mu.Lock()
		if len(s.has)+s.reserved < s.want {
			s.reserved++
			s.mu.Unlock()
			return true
		}
		raised := s.raised
		s.mu.Unlock()
		select {
		case <-raised:
		case <-last.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// cancel takes back what turn reserved.
func (s *share) cancel(reserved bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reserved {
		s.reserved--
		s.raise()
	}
}

// take notes a partition that this process has now; give makes it give it up.
func (s *share) take(p int, reserved bool, give context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reserved {
		s.reserved--
	}
	s.has[p] = give
}

// drop notes that this process has a partition no more.
func (s *share) drop(p int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.has, p)
	s.raise()
}

// set says how many this process should have, and gives up what is too much.
func (s *share) set(want int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.want = want
	for _, p := range slices.Backward(slices.Sorted(maps.Keys(s.has))) {
		if len(s.has) <= want {
			break
		}
		s.has[p]()
		delete(s.has, p)
	}
	s.raise()
}

// raise wakes those who wait for their turn. It is called with mu held.
func (s *share) raise() {
	if len(s.has)+s.reserved < s.want {
		close(s.raised)
		s.raised = make(chan struct{})
	}
}

// doubt has the division made anew soon.
func (s *share) doubt() {
	select {
	case s.doubted <- struct{}{}:
	default:
	}
}

// part is how many of the partitions one gateway should have, of which have tells how
// many each has now. Those who have most keep what can't be divided, so that as few as
// possible move.
func part(name string, have map[string]int, partitions int) int {
	names := slices.SortedFunc(maps.Keys(have), func(a, b string) int {
		return cmp.Or(cmp.Compare(have[b], have[a]), cmp.Compare(a, b))
	})
	each, over := partitions/len(names), partitions%len(names)
	if slices.Index(names, name) < over {
		each++
	}
	return each
}

// divide tells the others what this process has, and learns what it should have. It
// does not end with ctx: said after leave, it would be believed.
func (s *Steward) divide(ctx context.Context) {
	saying, stop := context.WithTimeout(context.WithoutCancel(ctx), sayWithin)
	defer stop()
	have, err := s.broker.Present(saying, s.share.held(), absent)
	if err != nil {
		s.complain(ctx, "divide the partitions", -1, err)
		return
	}
	s.share.set(part(s.broker.Name(), have, s.broker.Partitions()))
}

func (s *Steward) keepDividing(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.share.doubted:
		case <-time.After(divideEvery):
		}
		s.divide(ctx)
		if !loop.Rest(ctx, divideEvery/10) { // many may be given up together
			return
		}
	}
}

// leave says that this process takes no part any more, so that the others know what is
// theirs when it gives up what it has.
func (s *Steward) leave(ctx context.Context) {
	leaving, stop := context.WithTimeout(context.WithoutCancel(ctx), sayWithin)
	defer stop()
	if err := s.broker.Leave(leaving); err != nil {
		s.complain(leaving, "leave the partitions to others", -1, err)
	}
}
