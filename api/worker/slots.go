package worker

import (
	"context"
	"sync"
	"time"
)

// slots are the places of running jobs. Only the claiming loop begins jobs, so what it
// found free stays free until it does.
type slots struct {
	freed  chan struct{} // has an element once one of none became free; end sends, the claiming loop receives
	sooner chan struct{} // has an element once a heartbeat is due before beat; begin sends, the loop of heartbeats receives

	mu   sync.Mutex // guards the rest
	jobs []*job     // by slot, nil where it is free
	free []int      // those that are
	most int        // how many there are; jobs beyond them stand behind, until one of these is free
	beat time.Time  // until when no job needs a heartbeat; zero where there was none to look at
}

func newSlots(n int) *slots {
	s := &slots{freed: make(chan struct{}, 1), sooner: make(chan struct{}, 1), jobs: make([]*job, n), free: make([]int, n), most: n}
	for i := range s.free {
		s.free[i] = n - 1 - i
	}
	return s
}

// wait returns how many slots are free once one is; 0 where ctx ended before.
func (s *slots) wait(ctx context.Context) int {
	for ctx.Err() == nil {
		s.mu.Lock()
		n := len(s.free)
		s.mu.Unlock()
		if n > 0 {
			return n
		}
		select {
		case <-s.freed:
		case <-ctx.Done():
		}
	}
	return 0
}

// begin gives each job a slot. There are as many, unless Redis handed over more than it
// was asked for: nobody else is given those, so they run here as well.
func (s *slots) begin(jobs []*job) {
	s.mu.Lock()
	sooner := false
	for _, j := range jobs {
		if last := len(s.free) - 1; last >= 0 {
			j.slot, s.free = s.free[last], s.free[:last]
			s.jobs[j.slot] = j
		} else {
			j.slot, s.jobs = len(s.jobs), append(s.jobs, j)
		}
		if s.beat.IsZero() || j.beatAt.Before(s.beat) {
			s.beat, sooner = j.beatAt, true
		}
	}
	s.mu.Unlock()
	if sooner {
		offer(s.sooner)
	}
}

func (s *slots) end(j *job) {
	s.mu.Lock()
	s.jobs[j.slot] = nil
	first := false
	if last := len(s.jobs) - 1; last < s.most {
		s.free = append(s.free, j.slot)
		first = len(s.free) == 1
	} else { // one that there was no slot for has this one
		if after := s.jobs[last]; after != nil {
			after.slot, s.jobs[j.slot] = j.slot, after
		}
		s.jobs = s.jobs[:last]
	}
	s.mu.Unlock()
	if first {
		offer(s.freed)
	}
}

// running are the jobs that have a slot.
func (s *slots) running() (jobs []*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.jobs {
		if j != nil {
			jobs = append(jobs, j)
		}
	}
	return jobs
}

func offer(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}
