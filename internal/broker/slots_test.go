package broker

import (
	"testing"
)

// Partitions are even among any number of masters, and the first tags stay what they are
// for ever: who has them in cc:config can't change them.
func TestPartitionsAreSpreadEvenly(t *testing.T) {
	if got, want := tagsFor(16, nil), "0,1.19,2.73,3.54,4.21,5.137,6.332,7.109,8.1014,9.521,10.327,11.9,12.2,13.669,14.532,15.115"; got != want {
		t.Errorf("tags %s, want %s", got, want)
	}
	if got := slotOf("123456789"); got != 0x31c3%clusterSlots { // the check value of the specification
		t.Errorf("slot %d", got)
	}
	seen := map[string]bool{}
	for n := range 1024 {
		p := spread(n)
		if seen[p.tag()] {
			t.Errorf("tag %s twice", p.tag())
		}
		seen[p.tag()] = true
	}
	for partitions := 16; partitions <= 64; partitions *= 2 {
		for masters := 3; masters <= 8; masters++ {
			has := make([]int, masters)
			for n := range partitions {
				has[slotOf(spread(n).tag())*masters/clusterSlots]++
			}
			for _, n := range has {
				if least := partitions / masters; n < least-1 || n > least+2 {
					t.Errorf("%d partitions on %d masters: %v", partitions, masters, has)
					break
				}
			}
		}
	}
	old := parseTags("0,1,2,3")
	if got, want := tagsFor(5, old)[:8], "0,1,2,3,"; got != want {
		t.Errorf("a deployment with plain tags gets %s", got)
	}
}
