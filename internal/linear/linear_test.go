// Package linear_test asks three gateways on one Redis the same things at once, while
// connections break and gateways are cut off, stopped and started, and has porcupine
// look for an order of all operations that explains every answer: as if there were one
// gateway, which does one thing after the other.
//
//	make linear             # a minute; SEED=n draws the same
//
// What was asked and never answered may have had its effect at any time, or not at all.
package linear_test

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

var (
	lasts = flag.Duration("lasts", 2*time.Second, "for how long requests are made")
	seed  = flag.Uint64("seed", 0, "draws the same; 0 draws one")
)

// Planted once: Poll showed what it had read within the last 300 ms. In two of three runs the
// history was refused.
func TestLinearizable(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	h := open(t, *seed)
	h.work()
	h.live(*lasts)
	history := h.heal()
	for _, part := range model.Partition(history) {
		part = needed(part)
		if porcupine.CheckOperationsTimeout(model, part, time.Minute) == porcupine.Ok {
			continue
		}
		result, info := porcupine.CheckOperationsVerbose(model, part, time.Minute)
		page := filepath.Join(os.TempDir(), fmt.Sprintf("linear-%d-%s.html", *seed, part[0].Input.(asked).key))
		_ = porcupine.VisualizePath(model, info, page) // it only helps
		t.Errorf("%s: no order of these operations explains their answers; see %s\n%s", result, page, told(part))
	}
	met := map[string]bool{}
	for _, o := range history {
		met[o.Output.(answered).verdict] = true
	}
	for _, verdict := range []string{"accepted", "shown", "canceled", "ended"} {
		if !met[verdict] {
			t.Errorf("nothing was ever %s: this shows nothing of it", verdict)
		}
	}
	t.Logf("seed %d: %s", *seed, h.summary(history))
}

// told is a history, a line an operation in the order in which they began.
func told(history []porcupine.Operation) string {
	var lines strings.Builder
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	for _, o := range history {
		end := "     never"
		if o.Return != never {
			end = fmt.Sprintf("%10.6f", time.Duration(o.Return).Seconds())
		}
		fmt.Fprintf(&lines, "%10.6f %s  client %2d: %s\n", time.Duration(o.Call).Seconds(), end, o.ClientId, model.DescribeOperation(o.Input, o.Output))
	}
	return lines.String()
}

// What the model refuses and what it lets pass.
func TestModel(t *testing.T) {
	accepted := answered{"accepted", state{"1", "queued", ""}}
	shown := func(status, reply string) answered { return answered{"shown", state{"1", status, reply}} }
	submit, claim, poll, cancel := asked{do: "submit"}, asked{do: "claim"}, asked{do: "poll"}, asked{do: "cancel"}
	reply, clock := asked{do: "reply", body: "a"}, asked{do: "clock"}
	for _, c := range []struct {
		name    string
		history []porcupine.Operation
		want    bool
	}{
		{"a life", []porcupine.Operation{
			at(0, 0, 2, submit, accepted), at(1, 3, 4, claim, answered{}), at(2, 5, 6, poll, shown("running", "")),
			at(1, 5, 0, reply, answered{}), at(2, 9, 10, poll, shown("succeeded", "a")), at(3, 9, 11, cancel, answered{verdict: "ended"}),
		}, true},
		{"a stale read", []porcupine.Operation{
			at(0, 0, 2, submit, accepted), at(1, 3, 4, claim, answered{}), at(1, 5, 0, reply, answered{}),
			at(2, 9, 10, poll, shown("succeeded", "a")), at(3, 11, 12, poll, shown("running", "")),
		}, false},
		{"read at the same time", []porcupine.Operation{
			at(0, 0, 2, submit, accepted), at(1, 3, 4, claim, answered{}), at(1, 5, 0, reply, answered{}),
			at(2, 9, 11, poll, shown("succeeded", "a")), at(3, 10, 12, poll, shown("running", "")),
		}, true},
		{"a claim that is not seen", []porcupine.Operation{
			at(0, 0, 2, submit, accepted), at(1, 3, 4, claim, answered{}), at(2, 5, 6, poll, shown("queued", "")),
		}, false},
		{"an accept that is not seen", []porcupine.Operation{at(0, 0, 2, submit, accepted), at(1, 3, 4, poll, answered{verdict: "gone"})}, false},
		{"one key, two requests", []porcupine.Operation{
			at(0, 0, 0, submit, answered{}), at(1, 3, 4, submit, accepted), at(2, 5, 6, submit, answered{"accepted", state{"2", "queued", ""}}),
		}, false},
		{"an answer that was lost", []porcupine.Operation{
			at(0, 0, 0, submit, answered{}), at(1, 3, 4, claim, answered{}), at(2, 5, 6, submit, accepted), at(2, 5, 6, poll, shown("running", "")),
		}, true},
		{"refused, and yet it ran", []porcupine.Operation{at(0, 0, 2, submit, answered{verdict: "refused"}), at(1, 3, 4, claim, answered{})}, false},
		{"two outcomes", []porcupine.Operation{
			at(0, 0, 2, submit, accepted), at(1, 3, 4, claim, answered{}), at(1, 5, 0, reply, answered{}),
			at(2, 9, 10, poll, shown("succeeded", "a")), at(3, 11, 12, cancel, answered{verdict: "canceled"}),
		}, false},
		{"given to a worker after its end", []porcupine.Operation{
			at(0, 0, 2, submit, accepted), at(3, 3, 4, cancel, answered{verdict: "canceled"}), at(1, 5, 6, claim, answered{}),
		}, false},
		{"timed out before its time", []porcupine.Operation{
			at(0, 0, 2, submit, accepted), at(1, 3, 4, poll, shown("timed_out", "")), at(2, 9, 0, clock, answered{}),
		}, false},
		{"a reply that nobody sent", []porcupine.Operation{
			at(0, 0, 2, submit, accepted), at(1, 3, 4, claim, answered{}), at(1, 5, 0, reply, answered{}), at(2, 9, 10, poll, shown("succeeded", "b")),
		}, false},
	} {
		if got := porcupine.CheckOperations(model, c.history); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
