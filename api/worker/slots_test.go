package worker

import (
	"math/rand/v2"
	"testing"
)

// Redis may hand over more than there are slots for, where a proxy answers for it. All of
// it runs, and nothing more is claimed before as many have ended.
func TestMoreThanSlots(t *testing.T) {
	const most = 3
	for beyond := range 6 {
		s := newSlots(most)
		var jobs []*job
		for range most + beyond {
			jobs = append(jobs, &job{})
		}
		s.begin(jobs[:1])
		s.begin(jobs[1:])
		rand.Shuffle(len(jobs), func(i, j int) { jobs[i], jobs[j] = jobs[j], jobs[i] })
		for ended, j := range jobs {
			if got, want := len(s.running()), len(jobs)-ended; got != want {
				t.Fatalf("%d beyond: %d run, want %d", beyond, got, want)
			}
			s.end(j)
			if got, want := len(s.free), max(0, ended+1-beyond); got != want {
				t.Fatalf("%d beyond: %d are free after %d ended, want %d", beyond, got, ended+1, want)
			}
		}
		if len(s.free) != most || len(s.jobs) != most {
			t.Errorf("%d beyond: %d slots, %d of them free", beyond, len(s.jobs), len(s.free))
		}
	}
}
